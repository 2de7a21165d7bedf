"""The budget of a run: one ledger of what may be spent and what was spent, over the whole tree of recursive runs.

A call is paid in three steps. `reserve` sets an upper estimate aside before anything is sent; the call is made;
`settle` replaces the estimate by the actual cost. So the sum of settled and reserved amounts never passes a limit, and
a run overshoots by at most the error of the estimates of the calls in flight. A child's ledger has an account of its
own and books every call on its parents' accounts too, so a child can spend neither more than its share nor more than
the tree has left.

A reservation that does not fit *now* waits while other calls are in flight, because they settle for less than they
reserved; it is refused if it would not fit even alone. A reply is shortened (`Reservation.max_tokens`) rather than
refused, down to MIN_COMPLETION_TOKENS. While the ledger is held, every reservation waits, so that no call begins.

A request that broke off without an answer may have been billed. Its prompt counts against the limits and is reported
apart from the tokens that providers reported (`Spent.unanswered_prompt_tokens`). Everything here runs on one event
loop; there are no locks.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, TypeVar

import anyio

from rlm_mcp.concurrency import FifoGate
from rlm_mcp.errors import BudgetExceeded, ModelError, PriceUnknown
from rlm_mcp.models.base import (
    REPLY_MAX_CHARS,
    Attempts,
    Completion,
    Message,
    Model,
    Profile,
    Usage,
    bound_prompt,
    estimate_prompt,
)
from rlm_mcp.models.failures import over_window
from rlm_mcp.spending import RunLimits, Spent

CallKind = Literal["root", "sub"]

# A shorter reply is not worth its prompt: a line of code or a label takes about this much.
MIN_COMPLETION_TOKENS = 64
# The longest reply asked for if the caller names no length. A reservation holds this much until the call settles, so
# with a provider's own maximum (128,000 for some) a run with a small budget could make only one call at a time.
USUAL_COMPLETION_TOKENS: Mapping[CallKind, int] = {"root": 16_384, "sub": 8_192}

_Quantity = TypeVar("_Quantity", int, float)


@dataclass(slots=True)
class Bill:
    """The cost of one sub-call, filled in during the call, so that it is known even if the call fails.

    `usage` sums all its requests, including a second one after a reply that did not fit the schema. `cached` says that
    the answer came from another call or from the cache on disk. Before each request is sent, `announce` is awaited with
    the tokens that may be billed for the call, this prompt included, if the process does not live to see the reply.
    """

    model: str = ""
    cached: bool = False
    usage: Usage = field(default_factory=Usage)
    requests: int = 0
    """announced so far"""
    announce: Callable[[int], Awaitable[None]] | None = None

    async def announce_request(self, prompt_tokens: int) -> None:
        """Announces one more request. `prompt_tokens` are its own and those of unanswered ones not in `usage` yet."""
        self.requests += 1
        if self.announce is not None:
            used = self.usage
            before = used.prompt_tokens + used.completion_tokens + used.unanswered_prompt_tokens
            await self.announce(before + prompt_tokens)

    def add(self, usage: Usage) -> None:
        """Adds the usage of one more request."""
        self.usage = self.usage.plus(usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLeft:
    """The rest of each limit after reservations; None where there is no limit."""

    usd: float | None
    tokens: int | None
    sub_calls: int | None
    seconds: float | None
    iterations: int | None


@dataclass(slots=True, kw_only=True)
class Reservation:
    """Budget set aside for one call. `max_tokens` is the longest reply it pays for. Must be settled, once."""

    kind: CallKind
    prompt_tokens: int
    max_tokens: int
    profile: Profile
    close: Callable[["Reservation", Usage, bool], None]
    is_open: bool = True

    @property
    def tokens(self) -> int:
        """Tokens set aside."""
        return self.prompt_tokens + self.max_tokens

    @property
    def usd(self) -> float:
        """Dollars set aside; 0 if no price is known."""
        return self.profile.cost_usd(self.prompt_tokens, self.max_tokens) or 0.0

    def settle(self, usage: Usage, *, was_sent: bool = True) -> None:
        """Replaces the estimate by the cost of the call; unanswered requests are charged their prompts.

        A call that was cancelled before anything was sent is not counted as a call.
        """
        if self.is_open:
            self.is_open = False
            self.close(self, usage, was_sent)


class Ledger:
    """Decides and counts the spending of a run.

    `already` is what earlier processes spent on the same run; it counts against every limit. `unanswered_usd` are the
    dollars that providers may have billed for its `unanswered_prompt_tokens`.
    """

    def __init__(
        self,
        limits: RunLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        already: Spent | None = None,
        unanswered_usd: float = 0.0,
        parent: "Ledger | None" = None,
    ) -> None:
        self.limits = limits or RunLimits()
        self._clock = clock
        self._account = _Account(self.limits, clock, already or Spent(), unanswered_usd)
        self._accounts: tuple[_Account, ...] = (self._account, *(parent.accounts if parent else ()))
        self._queue: FifoGate = parent.queue if parent else FifoGate()

    def __repr__(self) -> str:
        account = self._account
        return f"<Ledger {account.calls} calls, {account.tokens_bound} tokens, {account.in_flight} in flight>"

    @property
    def accounts(self) -> tuple["_Account", ...]:
        """The accounts that a call is booked on: this ledger's, then its parents'."""
        return self._accounts

    @property
    def queue(self) -> FifoGate:
        """Calls of the whole tree that wait for a reservation."""
        return self._queue

    # --- queries ------------------------------------------------------------------------------------------------

    def spent(self) -> Spent:
        """The sums reported by providers so far, children included."""
        return self._account.spent()

    def spent_in_all(self) -> Spent:
        """The same for the whole tree of runs that this one belongs to."""
        return self._accounts[-1].spent()

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the earliest time limit of this ledger or its parents; None if there is none."""
        return _least(account.seconds_left for account in self._accounts)

    def left(self) -> BudgetLeft:
        """The rest of the budget: the least that is left by this run's own limits and by its parents' limits."""
        limit = self.limits.max_iterations
        return BudgetLeft(
            usd=_least(account.usd_left for account in self._accounts),
            tokens=_least(account.tokens_left for account in self._accounts),
            sub_calls=_least(account.sub_calls_left for account in self._accounts),
            seconds=self.seconds_left,
            iterations=None if limit is None else max(0, limit - self._account.iterations),
        )

    def exceeded(self) -> BudgetExceeded | None:
        """The first limit of dollars, tokens or seconds that is used up, as an error; None if none is."""
        return next((error for account in self._accounts if (error := account.used_up()) is not None), None)

    # --- spending -----------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Lets no call of this ledger and its children begin until `release`; those in flight settle as usual."""
        self._account.is_held = True

    def release(self) -> None:
        """Lets calls begin again."""
        self._account.is_held = False
        self._queue.wake_first()

    def child(self, *, share: float) -> "Ledger":
        """A ledger for a child run: `share` of what is left here."""
        left = self.left()
        carved = replace(
            self.limits,
            max_usd=None if left.usd is None else left.usd * share,
            max_tokens=None if left.tokens is None else int(left.tokens * share),
            max_sub_calls=None if left.sub_calls is None else int(left.sub_calls * share),
            max_seconds=None if left.seconds is None else left.seconds * share,
        )
        return Ledger(carved, clock=self._clock, parent=self)

    def count_iteration(self) -> int:
        """Counts one turn of the root model and returns its number, from 1. Raises BudgetExceeded if none is left."""
        if (error := self.exceeded()) is not None:
            raise error
        limit, account = self.limits.max_iterations, self._account
        if limit is not None and account.iterations >= limit:
            raise BudgetExceeded(f"all {limit} iterations are used: give a higher max_iterations", which="iterations")
        account.iterations += 1
        return account.iterations

    def count_cached(self) -> None:
        """Counts a sub-call that was answered without a request to a model."""
        for account in self._accounts:
            account.cached_calls += 1

    def count_in_vain(self, calls: int) -> None:
        """Counts a sub-call that is asked ahead of code as in vain, with -1 no longer: code has come to it."""
        for account in self._accounts:
            account.calls_in_vain += calls

    def require_prices(self, models: Sequence[Model]) -> None:
        """Raises PriceUnknown if dollars are limited and one of `models` has no price, as the limit would not hold."""
        for model in models:
            if self.limits.max_usd is not None and not model.profile.priced:
                raise PriceUnknown(
                    f"max_usd={self.limits.max_usd:g} cannot be kept: no price is known for model {model.name!r}; set"
                    f" RLM_MCP_PRICES='{{\"{model.name}\": [dollars per million tokens in, out]}}', or limit the run by"
                    " max_sub_calls or max_seconds"
                )

    async def reserve(self, kind: CallKind, *, prompt_tokens: int, max_tokens: int, profile: Profile) -> Reservation:
        """Reserves budget for one call; waits while calls in flight hold too much of it. Raises BudgetExceeded."""
        attempt = partial(self.try_reserve, kind, prompt_tokens=prompt_tokens, max_tokens=max_tokens, profile=profile)
        if not self._queue and (room := attempt()) is not None:
            return room
        async with self._queue.queued() as place:
            while (room := attempt()) is None:
                await place.wait()
            return room

    def try_reserve(
        self, kind: CallKind, *, prompt_tokens: int, max_tokens: int, profile: Profile
    ) -> Reservation | None:
        """Reserves at once; None if calls in flight hold too much for now. Raises BudgetExceeded if it never fits."""
        completion = max_tokens
        for account, kind_there in self._booked_on(kind):
            allowed = account.allowed_completion(kind_there, prompt_tokens, max_tokens, profile)
            if allowed is None:
                return None
            completion = min(completion, allowed)
        room = Reservation(
            kind=kind, prompt_tokens=prompt_tokens, max_tokens=completion, profile=profile, close=self._close
        )
        for account, kind_there in self._booked_on(kind):
            account.open(kind_there, room)
        return room

    def _close(self, room: Reservation, usage: Usage, was_sent: bool) -> None:  # noqa: FBT001 - the type of `close`
        for account, kind_there in self._booked_on(room.kind):
            account.close(kind_there, room, usage, was_sent=was_sent)
        self._queue.wake_first()

    def _booked_on(self, kind: CallKind) -> Iterator[tuple["_Account", CallKind]]:
        """The accounts with the kind that the call has in each: any call of a child is a sub-call to its parents."""
        yield self._account, kind
        for account in self._accounts[1:]:
            yield account, "sub"


async def paid_call(
    ledger: Ledger,
    model: Model,
    messages: Sequence[Message],
    *,
    kind: CallKind,
    max_tokens: int | None = None,
    temperature: float | None = None,
    schema: Mapping[str, object] | None = None,
    logprobs: bool = False,
    stop: Sequence[str] = (),
    bill: Bill | None = None,
) -> Completion:
    """Reserves, asks and settles: the only way in which a run asks a model. The cost is added to `bill` too.

    `max_tokens` is reduced to what the model's profile allows beside the prompt. Raises PromptOverWindow and
    BudgetExceeded before anything is sent; after that ModelError, or BudgetExceeded if the run's time is over first. A
    request in flight when the call is cancelled is charged its prompt, because the provider may bill it.
    """
    bill = bill or Bill()
    profile = model.profile
    estimate = estimate_prompt(messages)
    beside_prompt = profile.window_tokens - estimate
    if beside_prompt < 1:
        raise over_window(model, messages)
    beside_prompt = max(beside_prompt, MIN_COMPLETION_TOKENS)
    wanted = min(max_tokens or USUAL_COMPLETION_TOKENS[kind], profile.max_output_tokens, beside_prompt)
    with anyio.move_on_after(ledger.seconds_left):
        room = await ledger.reserve(kind, prompt_tokens=bound_prompt(messages), max_tokens=wanted, profile=profile)
        attempts, usage, was_sent = Attempts(), Usage(), True
        attempts.before_request = lambda: bill.announce_request((attempts.unanswered + 1) * estimate)
        try:
            completion = await model.complete(
                messages,
                max_tokens=room.max_tokens,
                temperature=temperature,
                schema=schema,
                logprobs=logprobs,
                stop=stop,
                attempts=attempts,
            )
            usage = completion.usage
            if len(completion.text) > REPLY_MAX_CHARS:
                completion = replace(completion, text=completion.text[:REPLY_MAX_CHARS], finish_reason="length")
        except ModelError as error:
            usage = Usage(failed_requests=error.failed_requests, unanswered_requests=error.unanswered_requests)
            raise
        except BaseException:  # cancellation, or a bug in a model
            late = attempts.is_under_way
            usage = Usage(failed_requests=attempts.failed + late, unanswered_requests=attempts.unanswered + late)
            was_sent = usage.failed_requests > 0
            raise
        finally:  # the reservation must be settled either way
            if usage.unanswered_requests:
                usage = replace(usage, unanswered_prompt_tokens=usage.unanswered_requests * estimate)
            room.settle(usage, was_sent=was_sent)
            bill.add(usage)
        return completion
    raise BudgetExceeded(
        f"the run's time was over before model {model.name!r} had answered: raise max_seconds to give it more",
        which="seconds",
    )


class _Account:
    """The sums of one ledger. `tokens_bound` and `usd_bound` include what may have been billed without a report."""

    def __init__(self, limits: RunLimits, clock: Callable[[], float], already: Spent, unanswered_usd: float) -> None:
        self.limits = limits
        self.root_calls, self.sub_calls = already.root_calls, already.sub_calls
        self.cached_calls, self.failed_calls = already.cached_calls, already.failed_calls
        self.calls_in_vain = already.calls_in_vain
        self.prompt_tokens, self.completion_tokens = already.prompt_tokens, already.completion_tokens
        self.unanswered_prompt_tokens = already.unanswered_prompt_tokens
        self.tokens_bound = already.prompt_tokens + already.completion_tokens + already.unanswered_prompt_tokens
        self.usd = already.cost_usd or 0.0
        self.usd_bound = self.usd + unanswered_usd
        has_reply = already.prompt_tokens + already.completion_tokens > 0
        self.unpriced_calls = self.calls if has_reply and already.cost_usd is None else 0
        self.priced_calls = 0 if already.cost_usd is None else self.calls
        self.iterations = 0
        self.reserved_tokens = 0
        self.reserved_usd = 0.0
        self.in_flight = 0
        self.in_flight_sub = 0
        self.is_held = False
        self._clock = clock
        self._began = clock() - already.seconds

    @property
    def calls(self) -> int:
        return self.root_calls + self.sub_calls

    @property
    def seconds(self) -> float:
        return self._clock() - self._began

    @property
    def usd_left(self) -> float | None:
        return (
            None if self.limits.max_usd is None else max(0.0, self.limits.max_usd - self.usd_bound - self.reserved_usd)
        )

    @property
    def tokens_left(self) -> int | None:
        limit = self.limits.max_tokens
        return None if limit is None else max(0, limit - self.tokens_bound - self.reserved_tokens)

    @property
    def sub_calls_left(self) -> int | None:
        limit = self.limits.max_sub_calls
        return None if limit is None else max(0, limit - self.sub_calls - self.in_flight_sub)

    @property
    def seconds_left(self) -> float | None:
        return None if self.limits.max_seconds is None else max(0.0, self.limits.max_seconds - self.seconds)

    def spent(self) -> Spent:
        return Spent(
            root_calls=self.root_calls,
            sub_calls=self.sub_calls,
            cached_calls=self.cached_calls,
            calls_in_vain=self.calls_in_vain,
            failed_calls=self.failed_calls,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            unanswered_prompt_tokens=self.unanswered_prompt_tokens,
            cost_usd=round(self.usd, 9) if self.priced_calls and not self.unpriced_calls else None,
            seconds=self.seconds,
        )

    def allowed_completion(self, kind: CallKind, prompt: int, completion: int, profile: Profile) -> int | None:
        """The longest reply that fits, up to `completion` tokens; None to wait. Raises BudgetExceeded."""
        if self.is_held:
            return None
        if self.limits.max_usd is not None and not profile.priced:
            raise PriceUnknown(f"max_usd={self.limits.max_usd:g} cannot be kept: the price of the model is not known")
        if (error := self.used_up()) is not None:
            raise error
        if kind == "sub" and self.sub_calls_left == 0:
            raise BudgetExceeded(
                f"all {self.limits.max_sub_calls} sub-calls are used: answer from what you have or raise max_sub_calls",
                which="sub_calls",
            )
        if self.in_flight >= self.limits.concurrency:
            return None
        fits = min(completion, self._affordable(prompt, profile))
        if fits >= completion:
            return completion
        if self.in_flight > 0:
            return None
        if fits < MIN_COMPLETION_TOKENS:
            raise self._too_dear(prompt)
        return fits

    def open(self, kind: CallKind, room: Reservation) -> None:
        self.reserved_tokens += room.tokens
        self.reserved_usd += room.usd
        self.in_flight += 1
        self.in_flight_sub += kind == "sub"

    def close(self, kind: CallKind, room: Reservation, usage: Usage, *, was_sent: bool) -> None:
        self.reserved_tokens -= room.tokens
        self.reserved_usd -= room.usd
        self.in_flight -= 1
        self.in_flight_sub -= kind == "sub"
        if not self.in_flight:
            self.reserved_usd = 0.0  # sums of floats drift

        self.root_calls += was_sent and kind == "root"
        self.sub_calls += was_sent and kind == "sub"
        self.failed_calls += usage.failed_requests
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.unanswered_prompt_tokens += usage.unanswered_prompt_tokens
        tokens = usage.prompt_tokens + usage.completion_tokens
        self.usd += usage.cost_usd or 0.0
        self.priced_calls += usage.cost_usd is not None
        self.unpriced_calls += tokens > 0 and usage.cost_usd is None

        unseen = usage.unanswered_requests * room.prompt_tokens
        cost = usage.cost_usd
        if cost is None:
            cost = room.profile.cost_usd(usage.prompt_tokens, usage.completion_tokens) or 0.0
        self.tokens_bound += tokens + unseen
        self.usd_bound += cost + (room.profile.cost_usd(unseen, 0) or 0.0)

    def used_up(self) -> BudgetExceeded | None:
        limits = self.limits
        if self.seconds_left == 0:
            text = f"the run's {limits.max_seconds:g} seconds are over: give a higher max_seconds"
            return BudgetExceeded(text, which="seconds")
        if limits.max_usd is not None and self.usd_bound >= limits.max_usd:
            text = f"${self.usd_bound:.4f} of ${limits.max_usd:g} are spent: give a higher max_usd"
            return BudgetExceeded(text, which="usd")
        if limits.max_tokens is not None and self.tokens_bound >= limits.max_tokens:
            text = f"{self.tokens_bound} of {limits.max_tokens} tokens are spent: give a higher max_tokens"
            return BudgetExceeded(text, which="tokens")
        return None

    def _affordable(self, prompt: int, profile: Profile) -> int:
        """Completion tokens that the tokens and dollars left pay for after a prompt of this size."""
        room = float(1 << 40)
        if (tokens := self.tokens_left) is not None:
            room = tokens - prompt
        if (usd := self.usd_left) is not None and profile.usd_per_mtok_out:
            room = min(room, (usd - (profile.cost_usd(prompt, 0) or 0.0)) * 1_000_000 / profile.usd_per_mtok_out)
        return int(room)

    def _too_dear(self, prompt: int) -> BudgetExceeded:
        tokens = self.tokens_left
        if tokens is not None and tokens - prompt < MIN_COMPLETION_TOKENS:
            return BudgetExceeded(
                f"a prompt of up to {prompt} tokens and its reply do not fit into the {tokens} tokens that are left of"
                f" {self.limits.max_tokens}: send less at once or raise max_tokens",
                which="tokens",
            )
        return BudgetExceeded(
            f"a prompt of up to {prompt} tokens and its reply do not fit into the ${self.usd_left:.4f} that are left of"
            f" ${self.limits.max_usd:g}: send less at once or raise max_usd",
            which="usd",
        )


def _least(values: Iterable[_Quantity | None]) -> _Quantity | None:
    known = [value for value in values if value is not None]
    return min(known) if known else None
