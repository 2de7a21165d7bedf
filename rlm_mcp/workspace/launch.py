"""From a request to a run: chooses models, fixes limits, and refuses what can be refused before it costs anything.

A Launch is played once: `Launcher.new` makes one for a request, `Launcher.resumed` for a record that is continued,
`Launcher.replayed` for a record whose code is executed again with the recorded model replies.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.loop import solve
from rlm_mcp.engine.reply_schema import parse_schema
from rlm_mcp.engine.router import Estimate, estimate, route
from rlm_mcp.engine.subcalls import SubCalls
from rlm_mcp.engine.types import OpenRepl, Replies, RunDeps, RunSpec, started_event
from rlm_mcp.errors import NoModelConfigured, RunRecordDamaged, SchemaError
from rlm_mcp.models.base import Model, Profile
from rlm_mcp.models.sampling import SamplingModel
from rlm_mcp.models.sampling_queue import CLIENT, LocalSamplingQueue, SamplingQueue
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.packages.library import PackageImage
from rlm_mcp.records.events import Event, RootReply, RunStarted
from rlm_mcp.records.protocols import Record
from rlm_mcp.records.tape import Tape, TapedRequest
from rlm_mcp.records.time_over import seconds_before
from rlm_mcp.records.types import Outcome
from rlm_mcp.records.unanswered import with_unanswered
from rlm_mcp.repl.guest_functions import GuestFunction, recorded_functions
from rlm_mcp.settings import MOST, Settings
from rlm_mcp.spending import REQUESTED_LIMITS, RunLimits, Spent
from rlm_mcp.workspace.run_images import RunImages
from rlm_mcp.workspace.tool_servers import ToolServers

_T = TypeVar("_T", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveRequest:
    """A question about contexts, as a caller asks it. None stands for the value of the settings."""

    query: str
    contexts: tuple[str, ...]
    """ids or names"""
    mode: Literal["auto", "direct", "rlm"] = "auto"
    limits: RunLimits = field(default_factory=RunLimits)
    model: str | None = None
    sub_model: str | None = None
    output_schema: Mapping[str, Any] | None = None
    packages: tuple[str, ...] | None = None
    """of the sandbox, as in the setting"""
    functions: tuple[GuestFunction, ...] = ()
    """of the caller, for code"""


def fingerprint_of(request: SolveRequest, contexts: Sequence[Context]) -> str:
    """A hash of a request. It is the same for the same contexts, whether by id or by name; records keep it."""
    facts = {fact.name: getattr(request, fact.name) for fact in fields(request)}
    facts["contexts"] = [context.context_id for context in contexts]
    limits = asdict(facts.pop("limits"))
    facts["functions"] = [function.line for function in request.functions]
    if not request.functions:  # as before there were functions
        del facts["functions"]
    if request.packages is None:  # as before there were packages
        del facts["packages"]
    facts |= {name: limits[name] for name in REQUESTED_LIMITS}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class Models(Protocol):
    """The models of one run."""

    @property
    def root(self) -> Model:
        """Writes the code."""

    @property
    def sub(self) -> Model:
        """Answers sub-calls that name no model."""

    @property
    def named(self) -> Mapping[str, Model]:
        """The models that code may name, the default first."""


ChooseModels = Callable[[str | None, str | None], Awaitable[Models]]
"""Chooses the models by the names of the root and the sub-model; None is the default. Raises NoModelConfigured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunModels:
    """Models that exist already."""

    root: Model
    sub: Model

    @property
    def named(self) -> Mapping[str, Model]:
        """Both models, by name."""
        return {self.sub.name: self.sub, self.root.name: self.root}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One run, ready to be played."""

    spec: RunSpec
    models: Models
    limits: RunLimits
    store: Store
    open_repl: OpenRepl
    cache: Replies | None
    tape: Tape
    image: PackageImage | None = None
    """of the sandbox; None is that without packages"""
    functions: tuple[GuestFunction, ...] = ()
    """of the caller, for code"""
    already: Spent | None = None
    sampling_queue: SamplingQueue | None = None
    """for requests to the client's model, if the run uses it"""

    @property
    def started(self) -> RunStarted:
        """The first event of its record."""
        return started_event(
            self.spec,
            root=self.models.root,
            sub=self.models.sub,
            limits=self.limits,
            image=self.image,
            functions=self.functions,
        )

    @property
    def is_portable(self) -> bool:
        """Whether another machine could play it: it needs neither a client's model nor functions of this process."""
        return not self.functions and CLIENT not in {self.models.root.name, self.models.sub.name}

    async def play(self, record: Record, on_event: Callable[[Event], None], ledger: Ledger) -> Outcome:
        """Runs it to its end, which is then on record."""
        calls = SubCalls(self.models.named, cache=self.cache)
        deps = RunDeps(
            root=self.models.root,
            sub=self.models.sub,
            ask_sub=calls.ask,
            open_repl=self.open_repl,
            functions=self.functions,
            imports=() if self.image is None else self.image.imports,
            store=self.store,
            record=record,
            on_event=on_event,
            stop_calls=calls.stop,
            tape=self.tape,
        )
        async with calls.open():
            return await solve(self.spec, deps, ledger)

    def new_ledger(self) -> Ledger:
        """Its budget, less what was spent on it already. The time begins now."""
        if self.already is None:
            return Ledger(self.limits)
        # What was not answered may have gone to the dearer of the two.
        tokens, profiles = self.already.unanswered_prompt_tokens, (self.models.root.profile, self.models.sub.profile)
        dearest = max(profile.cost_usd(tokens, 0) or 0.0 for profile in profiles)
        return Ledger(self.limits, already=self.already, unanswered_usd=dearest)


class Launcher:
    """Makes launches over one store, one kind of REPL and one choice of models."""

    def __init__(
        self,
        settings: Settings,
        choose: ChooseModels,
        store: Store,
        open_repl: OpenRepl,
        cache: Replies | None = None,
        images: RunImages | None = None,
        tools: ToolServers | None = None,
        open_queue: Callable[[], SamplingQueue] = LocalSamplingQueue,
    ) -> None:
        """Without `images` all REPLs are opened by `open_repl`, which then has no packages."""
        self._tools = tools
        self._open_queue = open_queue
        self._settings = settings
        self._choose = choose
        self._store = store
        self._images = images
        self._open_repl = open_repl
        self._launch_on = partial(Launch, store=store, cache=cache)

    def _launch(
        self, started: RunStarted | None = None, *, packages: Sequence[str] | None = None, **facts: Any
    ) -> Launch:
        """A launch with the image that a record names, or that has these packages, or that of the settings."""
        images = self._images
        if images is None:
            return self._launch_on(open_repl=self._open_repl, **facts)
        image = images.with_packages(packages) if started is None else images.recorded(started.packages)
        return self._launch_on(open_repl=images.open_with(image), image=image, **facts)

    async def new(self, request: SolveRequest, contexts: Sequence[Context], *, sampling: bool = False) -> Launch:
        """A run of `request`. With `sampling`, the client's model is used where it is named or no other is configured.

        Raises NoModelConfigured, PackagesMissing, PriceUnknown, SchemaError, SettingsError.
        """
        if request.output_schema is not None:
            try:
                await run_in_thread(parse_schema, dict(request.output_schema))
            except SchemaError as error:
                raise SchemaError(f"output_schema: {error}") from error
        limits = self._settings.limits_for(request.limits)
        spec = RunSpec(
            query=request.query,
            contexts=tuple(contexts),
            mode=request.mode,
            max_depth=limits.max_depth,
            output_schema=request.output_schema,
            summaries=self._settings.summaries,
        )
        sampling_queue = self._open_queue()
        models = await self._models(request.model, request.sub_model, sampling_queue if sampling else None)
        Ledger(limits).require_prices((models.root, models.sub))
        return self._launch(
            spec=spec,
            models=models,
            limits=limits,
            tape=Tape(),
            sampling_queue=sampling_queue,
            packages=request.packages,
            functions=(*request.functions, *await self._tool_functions()),
        )

    async def _tool_functions(self) -> tuple[GuestFunction, ...]:
        return () if self._tools is None else await self._tools.functions()

    async def estimate(self, request: SolveRequest, contexts: Sequence[Context], *, sampling: bool = False) -> Estimate:
        """Probable needs of a run, bounded by its limits. Asks no model. Raises like `new`, and PromptOverWindow."""
        limits = self._settings.limits_for(request.limits)
        models = await self._models(request.model, request.sub_model, self._open_queue() if sampling else None)
        tokens = [context.estimated_tokens for context in contexts]
        root, sub = models.root.profile, models.sub.profile
        way = route(
            request.query,
            sum(tokens),
            root=root,
            mode=request.mode,
            max_depth=limits.max_depth,
            max_usd=limits.max_usd,
        )
        guess = estimate(way, tokens, root=root, sub=sub, has_schema=request.output_schema is not None)
        return replace(
            guess,
            tokens=_at_most(guess.tokens, limits.max_tokens),
            usd=None if guess.usd is None else _at_most(guess.usd, limits.max_usd),
        )

    async def resumed(self, events: Sequence[Event], spent: Spent) -> Launch:
        """The rest of the run that these events began, with its models. Nothing that was paid for is paid again.

        If its time was over, the time begins anew.
        """
        started = _started(events)
        limits = RunLimits(**started.limits)
        if limits.max_seconds is not None:
            limits = replace(limits, max_seconds=limits.max_seconds + seconds_before(events, spent.seconds))
        sampling_queue = self._open_queue()
        models = await self._models(started.models["root"]["name"], started.models["sub"]["name"], sampling_queue)
        return self._launch(
            started,
            functions=recorded_functions(started.functions, await self._tool_functions()),
            spec=await run_in_thread(self._spec, started),
            models=models,
            limits=limits,
            tape=Tape(events),
            already=with_unanswered(replace(spent, calls_in_vain=_in_vain_before_last_block(events)), events),
            sampling_queue=sampling_queue,
        )

    async def _models(self, root: str | None, sub: str | None, sampling_queue: SamplingQueue | None) -> Models:
        """The models of these names; `client` is the one that answers through the sampling queue."""
        wanted = root or self._settings.model, sub or self._settings.sub_model
        client = None if sampling_queue is None else SamplingModel(sampling_queue)
        if CLIENT not in wanted:
            try:
                return await self._choose(root, sub)
            except NoModelConfigured:
                if client is None:
                    raise
            return RunModels(root=client, sub=client)
        if client is None:
            raise NoModelConfigured(
                f"the model {CLIENT!r} is that of an MCP client, and this one does not offer sampling: name another "
                "model, or use the prompt be_the_root, which needs none"
            )
        match wanted:
            case "client", None | "client":
                return RunModels(root=client, sub=client)
            case "client", other:
                return RunModels(root=client, sub=(await self._choose(other, other)).sub)
            case other, _:
                return RunModels(root=(await self._choose(other, other)).root, sub=client)

    def replayed(
        self,
        events: Sequence[Event],
        contexts: Sequence[Context] | None = None,
        *,
        on_request: Callable[[TapedRequest], None] = lambda _: None,
    ) -> Launch:
        """The recorded run again: every block of code is executed, every model reply comes from the events.

        `contexts` replace the recorded ones, which are otherwise looked up by their ids. `on_request` gets what the
        models would be asked.
        """
        started = _started(events)
        models = RunModels(root=_recorded(started.models["root"]), sub=_recorded(started.models["sub"]))
        tape = Tape(events, strict=True, on_request=on_request)
        return self._launch(
            started,
            functions=recorded_functions(started.functions),
            spec=self._spec(started, contexts),
            models=models,
            limits=RunLimits(),
            tape=tape,
        )

    def _spec(self, started: RunStarted, contexts: Sequence[Context] | None = None) -> RunSpec:
        if contexts is None:
            contexts = [self._store.get(context["context_id"]) for context in started.contexts]
        return RunSpec(
            query=started.query,
            contexts=tuple(contexts),
            mode=started.mode_asked,
            max_depth=started.max_depth,
            output_schema=started.output_schema,
            summaries=started.summaries is True,
        )


def _recorded(model: Mapping[str, Any]) -> ScriptedModel:
    """A model with the name and profile of a recorded one, and without replies of its own."""
    try:
        profile = Profile(**model["profile"])
    except (KeyError, TypeError) as error:
        raise RunRecordDamaged(f"the record has no readable profile of model {model['name']!r}: ask anew.") from error
    return ScriptedModel([], name=model["name"], profile=profile)


def _at_most(guess: tuple[_T, _T], limit: _T | None) -> tuple[_T, _T]:
    return guess if limit is None else (min(guess[0], limit), min(guess[1], limit))


def _started(events: Sequence[Event]) -> RunStarted:
    """The first event of a record, which holds the request and the models. Raises RunRecordDamaged."""
    match events:
        case [RunStarted() as started, *_]:
            _require_playable(started)
            return started
    raise RunRecordDamaged("the record of this run has no readable first event, so it cannot be played: ask anew.")


def _in_vain_before_last_block(events: Sequence[Event]) -> int:
    """How many calls earlier blocks have not come to; the last block runs again and may come to its own."""
    replies = (event for event in reversed(events) if isinstance(event, RootReply))
    return int(next((reply.spent.get("calls_in_vain", 0) for reply in replies), 0))


def _require_playable(started: RunStarted) -> None:
    names = [_object(started.models.get(role)).get("name") for role in ("root", "sub")]
    contexts = [_object(context).get("context_id") for context in started.contexts]
    limits = started.limits
    if (
        not all(isinstance(text, str) for text in (*names, *contexts))
        or not isinstance(started.packages, dict | None)
        or not set(limits) <= set(RunLimits.__slots__)
        or not all(limit is None or (type(limit) in {int, float} and 0 <= limit <= MOST) for limit in limits.values())
    ):
        raise RunRecordDamaged(
            f"the first event of the record of {started.run_id} is damaged, so the run cannot be played: ask anew."
        )


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
