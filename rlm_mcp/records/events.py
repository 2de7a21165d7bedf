"""The events of a run: one class for each, and the JSON objects that stand for them in a record.

A record holds one event a line, as `to_json` gives it: "event" with the class's entry in NAMES, then "path" and "turn",
then the other fields, then "at". Everything else about a run (state, page, console, spans, resume, replay) is computed
from these events, so no field is ever renamed or given another meaning. All classes and fields exist since version
0.1.0 (record format 1); those that early builds of it did not write say so. `event_from_json` reads records of all
versions: it ignores fields that it does not know, and gives absent ones an empty value.

Nested values (usage, limits, citations …) stay JSON. The types that write and read them are named at the fields.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rlm_mcp.records.types import Confidence, Outcome, Status, StoppedBy

FORMAT = 1
"""The format of records that this version writes, and the newest that it reads."""

INLINE_ANSWER_CHARS = 200_000
"""A longer answer is kept only in its own file, so that reading events stays cheap."""

JsonMap = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """The fields that all events share. The engine stamps `path` and `turn`, the record stamps `at`."""

    path: str = ""
    """the run it belongs to: empty for the run that a client asked for, names joined by dots for child runs"""
    turn: int = 0
    """the turn of that run, from 1; 0 before the first"""
    at: float | None = None
    """seconds since the run was created, when the event was written. None before, and in early records"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(RunEvent):
    """First event of a record: the request, the models and the limits. Has no path and turn in JSON."""

    format: int = FORMAT
    run_id: str = ""
    """given by the store, like `created_at`"""
    created_at: str = ""
    """ISO 8601 in UTC"""
    query: str
    contexts: Sequence[JsonMap] = ()
    """context_id, name, kind, chars, lines and files of each"""
    mode_asked: Literal["auto", "direct", "rlm"] = "auto"
    max_depth: int | None = None
    output_schema: JsonMap | None = None
    summaries: bool | None = None
    """whether the root model sums up a dialogue that gets too long; None if not"""
    models: JsonMap = field(default_factory=dict)
    """"root" and "sub", each with name and profile (models.base.Profile)"""
    limits: JsonMap = field(default_factory=dict)
    """spending.BudgetLimits"""
    packages: JsonMap | None = None
    """"image" (sha256) and "packages" ("name version") of the sandbox; None for the image without packages"""
    functions: Sequence[JsonMap] | None = None
    """"name" and "line" of each function of the caller that code could call (repl.guest_functions)"""
    fingerprint: str | None = None
    """the same for the same request over the same contexts"""
    served: bool | None = None
    """whether a server runs it; the next server then resumes it. Early records do not say"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(RunEvent):
    """A process continues the run; an end before this event no longer counts. Has no path and turn in JSON."""

    served: bool | None = None
    """as in RunStarted"""
    spent: JsonMap | None = None
    """spending.Spent of the whole tree of runs, with the calls that were in flight when the process before this one
    was killed. Early records do not say"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLeft(RunEvent):
    """A server that shut down has left the run to the next one; an end before this event no longer counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed(RunEvent):
    """Whether a run answers directly or in turns, and why. For child runs also the request, except in early records."""

    mode: Literal["direct", "rlm"]
    depth: int
    reason: str
    query: str | None = None
    chars: int | None = None
    """of the child's context"""
    model: str | None = None
    """the name of the child's root model"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootAsked(RunEvent):
    """The root model is being asked. Listeners get it at the beginning of a turn, without the fields after `model`.

    It is recorded before each request is sent, so that a reply that the process does not live to see is known to have
    been asked for. Early records do not have it.
    """

    model: str
    request: int | None = None
    """the number of this request within the turn, from 1"""
    prompt_tokens: int | None = None
    """an estimate of the tokens that may be billed for the turn without being reported: those of its prompts so far"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootReply(RunEvent):
    """A reply of the root model."""

    prompt_hash: str
    """of the messages it was asked with (engine.request_keys)"""
    told: str | None = None
    """the user message, if the prompt stands alone; in other turns it is the output of the blocks before"""
    text: str
    finish_reason: str
    model: str
    temperature: float | None
    left: JsonMap
    """what was left of the limits when the turn began (engine.prompts.Remaining)"""
    last: Sequence[str] = ("", "")
    """the limit that made this turn the last one, and the same in words"""
    shrinks: int
    """how often the prompt had to be shortened to fit the window"""
    usage: JsonMap
    """models.base.Usage"""
    seconds: float
    spent: JsonMap
    """spending.Spent of the whole tree of runs, this reply included"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellBegun(RunEvent):
    """A block of code is being run. Sent to listeners only, never recorded."""

    block: int
    """number within the turn, from 1"""
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell(RunEvent):
    """The result of a block of code. The fields after `block` are those of repl.types.CellResult."""

    block: int
    code: str
    stdout: str
    stderr: str
    value: str | None
    error: JsonMap | None
    truncated: bool
    stdout_chars: int
    seconds: float
    stopped_by: str | None
    undone: bool
    variables: Sequence[JsonMap]
    changed: Sequence[str]
    final: JsonMap | None
    citations: Sequence[JsonMap]
    reads: Sequence[JsonMap]
    notes: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubCallEvent(RunEvent):
    """The request of a sub-call, which its three events share."""

    key: str
    """computed from the request (engine.request_keys): the same request has the same key"""
    kind: Literal["llm", "rlm", "tool"]
    """rlm is a child run, tool a function of the caller"""
    prompt_chars: int | None = None
    """None for a child run"""
    prompt_head: str
    child: str | None = None
    """the last name in the path of a child run"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubAsked(SubCallEvent):
    """A sub-call. Listeners get it when code makes the call, without the fields below.

    It is recorded before each request to a model is sent, and before a function of the caller is called. Calls answered
    from a cache, and child runs, send none; in early records no call has it.
    """

    request: int | None = None
    """the number of this request within the call, from 1"""
    prompt_tokens: int | None = None
    """an estimate of the tokens that may be billed for the call without being reported: those of its prompts so far"""


DOUBT = "\u2e2e"
"""A sign that no model writes."""


def _with_doubts(value: Any, doubt: str) -> Any:
    if isinstance(value, str):
        return value.replace(DOUBT, doubt)
    return {key: _with_doubts(part, doubt) for key, part in value.items()} if isinstance(value, Mapping) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class SubReply(SubCallEvent):
    """The answer to a sub-call. That of a child run has no `model`, `cached` and `usage`: its own events have them."""

    value: Any
    """text, or a JSON value under a schema; DOUBT stands behind words that the model was unsure of"""
    seconds: float
    model: str | None = None
    cached: bool | None = None
    """answered without asking the model again"""
    usage: JsonMap | None = None
    """models.base.Usage"""
    spent: JsonMap
    """spending.Spent of the whole tree of runs, this call included"""

    def said(self, doubt: str = "") -> Any:
        """The value as the model gave it, with `doubt` behind words that it was unsure of."""
        return _with_doubts(self.value, doubt)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubFailed(SubCallEvent):
    """A sub-call without an answer; the fields are those of SubReply."""

    error: str
    seconds: float
    model: str | None = None
    cached: bool | None = None
    usage: JsonMap | None = None
    spent: JsonMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided(RunEvent):
    """The decision at the end of a turn."""

    step: Literal["again", "finish"]
    why: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(RunEvent):
    """The end of a run or child run. The fields before `answer_chars` are those of records.types.Outcome.

    Without `answer_chars` it was recorded on behalf of a run that could not record its end itself. Then the JSON has
    only status, stopped_by and message.
    """

    status: Status
    answer: Any = None
    """None also where it is too long for the record"""
    stopped_by: StoppedBy | None
    answered_by: str = ""
    citations: Sequence[JsonMap] = ()
    coverage: JsonMap = field(default_factory=dict)
    usage: JsonMap = field(default_factory=dict)
    """spending.Spent of this run and its children"""
    iterations: int = 0
    mode: str = ""
    mode_reason: str = ""
    depth: int = 0
    message: str
    confidence: Confidence | None = None
    """None in records of early builds"""
    answer_chars: int | None = None
    answer_sha256: str | None = None
    """of the file that holds an answer too long for the record"""

    @property
    def tells_all(self) -> bool:
        """Whether the run recorded this end itself, with everything that its state consists of."""
        return self.answer_chars is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(RunEvent):
    """An event of a later version."""

    data: JsonMap


Event = (
    RunStarted
    | RunResumed
    | RunLeft
    | Routed
    | RootAsked
    | RootReply
    | CellBegun
    | Cell
    | SubAsked
    | SubReply
    | SubFailed
    | Decided
    | RunEnded
    | UnknownEvent
)

NAMES: Mapping[type[RunEvent], str] = {
    RunStarted: "run_started",
    RunResumed: "run_resumed",
    RunLeft: "run_left",
    Routed: "routed",
    RootAsked: "root_asked",
    RootReply: "root_reply",
    CellBegun: "cell_begun",
    Cell: "cell",
    SubAsked: "sub_asked",
    SubReply: "sub_reply",
    SubFailed: "sub_failed",
    Decided: "decided",
    RunEnded: "run_ended",
}
"""class -> "event" in JSON"""

_SOMETIMES: Mapping[type[RunEvent], frozenset[str]] = {
    RunStarted: frozenset({"summaries", "packages", "functions", "fingerprint", "served"}),
    RunResumed: frozenset({"served", "spent"}),
    Routed: frozenset({"query", "chars", "model"}),
    RootAsked: frozenset({"request", "prompt_tokens"}),
    RootReply: frozenset({"told"}),
    SubAsked: frozenset({"prompt_chars", "child", "request", "prompt_tokens"}),
    SubReply: frozenset({"prompt_chars", "child", "model", "cached", "usage"}),
    SubFailed: frozenset({"prompt_chars", "child", "model", "cached", "usage"}),
    RunEnded: frozenset({"confidence", "answer_sha256"}),
}
"""Fields that are left out of the JSON when they are None; a None elsewhere is written as null."""

_WITHOUT_PLACE = (RunStarted, RunResumed, RunLeft)
_WRITTEN_FOR_A_RUN = ("status", "stopped_by", "message")


def ended_event(outcome: Outcome) -> RunEnded:
    """The last event of a run. An answer too long for the record is kept only in its own file."""
    facts = asdict(outcome)
    answer = outcome.answer
    text = answer if isinstance(answer, str) else json.dumps(answer)
    facts["answer_chars"] = 0 if answer is None else len(text)
    if len(text) > INLINE_ANSWER_CHARS:
        facts["answer"] = None
        facts["answer_sha256"] = hashlib.sha256(answer_bytes(answer)[1]).hexdigest()
    return RunEnded(**facts)


def answer_bytes(answer: object) -> tuple[str, bytes]:
    """The name and the bytes of the file that keeps an answer."""
    if isinstance(answer, str):
        return "answer.txt", answer.encode("utf-8", "surrogatepass")
    return "answer.json", json.dumps(answer, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")


# --- JSON


def name_of(event: Event) -> str:
    """The name of the event in a record."""
    return str(event.data["event"]) if isinstance(event, UnknownEvent) else NAMES[type(event)]


def to_json(event: Event) -> dict[str, Any]:
    """The JSON object of an event, with its keys in the order of records."""
    if isinstance(event, UnknownEvent):
        return dict(event.data)
    kind = type(event)
    data: dict[str, Any] = {"event": NAMES[kind]}
    if isinstance(event, RunEnded) and not event.tells_all:
        data |= {name: getattr(event, name) for name in _WRITTEN_FOR_A_RUN}
    else:
        sometimes = _SOMETIMES.get(kind, frozenset())
        for name in _WRITTEN[kind]:
            value = getattr(event, name)
            if value is not None or name not in sometimes:
                data[name] = value
    if event.at is not None:
        data["at"] = event.at
    return data


def event_from_json(data: object) -> Event:
    """The event of a JSON object. Unknown fields are ignored, and an event of unknown name is an UnknownEvent.

    A field that is absent, or whose value has the wrong type, gets its default or else the empty value of its type.
    Raises ValueError for anything that is no event.
    """
    if not isinstance(data, dict) or not isinstance(data.get("event"), str):
        raise ValueError("an event is a JSON object that names its kind under `event`")  # noqa: TRY004 - it is input
    kind = _KINDS.get(data["event"], UnknownEvent)
    types = _TYPES[kind]
    values = _REQUIRED[kind] | {
        name: value for name, value in data.items() if type(value) in types.get(name, ()) and is_sound(value)
    }
    if kind is UnknownEvent:
        values["data"] = data
    event: Event = kind(**values)
    return event


def is_sound(value: object) -> bool:
    """Whether a value is no number that JSON or C code cannot take, such as NaN or 10^400."""
    if type(value) is int:
        return abs(value) < 1 << 63
    return type(value) is not float or isfinite(value)


_EMPTY_VALUES: Mapping[Any, object] = {str: "", Literal: "", int: 0, float: 0.0, bool: False, Mapping: {}, Sequence: ()}
_JSON_TYPES: Mapping[Any, tuple[type, ...]] = {
    Any: (str, int, float, bool, NoneType, list, dict),
    Literal: (str,),
    float: (int, float),
    Sequence: (list, tuple),
    Mapping: (dict,),
}

_KINDS: Mapping[str, Any] = {name: kind for kind, name in NAMES.items()}


def types_of(hint: Any) -> frozenset[type]:
    """The types that a value in JSON may have for a field of this annotation."""
    bare = [get_origin(option) or option for option in _options(hint)]
    return frozenset(known for option in bare for known in _JSON_TYPES.get(option, (option,)))


def _empty(hint: Any) -> object:
    """The value of a field of this annotation that an old or damaged record does not hold."""
    if hint is Any or len(_options(hint)) > 1:
        return None
    return _EMPTY_VALUES[get_origin(hint) or hint]


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)


_HINTS = {kind: get_type_hints(kind) for kind in (*NAMES, UnknownEvent)}
_TYPES = {kind: {name: types_of(hint) for name, hint in hints.items()} for kind, hints in _HINTS.items()}
_REQUIRED = {
    kind: {
        one.name: _empty(hints[one.name])
        for one in fields(kind)
        if one.default is MISSING and one.default_factory is MISSING
    }
    for kind, hints in _HINTS.items()
}
_WRITTEN = {
    kind: [
        one.name
        for one in fields(kind)
        if one.name != "at" and not (kind in _WITHOUT_PLACE and one.name in {"path", "turn"})
    ]
    for kind in NAMES
}
"""The fields of the JSON in their order, between "event" and "at"."""
