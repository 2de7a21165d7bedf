"""Functions of the caller that code in the REPL may call by name, with arguments and answers in JSON.

A name is one word (`lookup`) or a path (`tools.SERVER.tool`), which code calls like any function.
"""

import builtins
import inspect
import keyword
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from rlm_mcp.errors import SettingsError, SubCallFailed
from rlm_mcp.redact import ellipsize, without_keys

CallFunction = Callable[[Sequence[Any], Mapping[str, Any]], Awaitable[object]]

MAX_FUNCTIONS = 64
ARGUMENT_CHARS = 200_000
"""Length of the arguments of one call as JSON."""
ANSWER_CHARS = 1_000_000
"""Length of one answer as JSON; records keep it."""
CALL_SECONDS = 60.0
LINE_CHARS = 300
REASON_CHARS = 500

_PROVIDED = """context contexts history answer llm_query llm_query_batched llm_batch llm_query_async rlm_query
rlm_query_batched sub_RLM classify pick read show search cite budget SHOW_VARS FINAL FINAL_VAR SUBMIT tools"""
PROVIDED = frozenset(_PROVIDED.split())
"""Names of the REPL's own, which no function of the caller takes."""

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestFunction:
    """A function by its name in the REPL, and the line about it in the prompt. `call` may raise anything."""

    name: str
    line: str
    call: CallFunction


def functions_of(calls: Mapping[str, Callable[..., object]]) -> tuple[GuestFunction, ...]:
    """Sync or async functions of a program, by the names that code calls them by. Raises SettingsError."""
    if len(calls) > MAX_FUNCTIONS:
        raise SettingsError(f"calls has {len(calls)} functions: give at most {MAX_FUNCTIONS}")
    for name, function in calls.items():
        if not _WORD.fullmatch(name) or keyword.iskeyword(name) or name in PROVIDED or hasattr(builtins, name):
            raise SettingsError(f"calls has the name {name!r}, which is no free name in Python: choose another")
        if not callable(function):
            raise SettingsError(f"calls has {name!r}, which is not a function: give one, sync or async")
    return tuple(
        GuestFunction(name=name, line=_line(name, function), call=partial(_call, function))
        for name, function in calls.items()
    )


def recorded_functions(
    rows: Sequence[Mapping[str, Any]] | None, there: Sequence[GuestFunction] = ()
) -> tuple[GuestFunction, ...]:
    """The functions of a recorded run with their recorded lines.

    Calls that the record does not answer go to those of the same names that are `there`. Others fail: the program that
    had them is gone.
    """
    calls = {function.name: function.call for function in there}
    sound = [row for row in rows or () if is_recorded_function(row)]
    return tuple(
        GuestFunction(name=row["name"], line=row["line"], call=calls.get(row["name"]) or _gone(row["name"]))
        for row in sound
    )


def is_recorded_function(row: object) -> bool:
    """Whether a record holds the name and the line of a function here."""
    return isinstance(row, Mapping) and all(isinstance(row.get(key), str) for key in ("name", "line"))


def _gone(name: str) -> CallFunction:
    async def call(_args: Sequence[Any], _kwargs: Mapping[str, Any]) -> object:
        raise SubCallFailed(f"{name} belongs to the program that began this run and is not there any more: do without")

    return call


def in_words(name: str, error: BaseException) -> SubCallFailed:
    """The exception that code sees when a function has failed."""
    said = " ".join(str(error).split())
    return SubCallFailed(ellipsize(without_keys(f"{name} failed: {type(error).__name__}: {said}"), REASON_CHARS))


async def _call(function: Callable[..., object], args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
    if inspect.iscoroutinefunction(function):
        return await function(*args, **kwargs)
    # A thread cannot be ended: one that goes on after its time is left behind.
    answer = await anyio.to_thread.run_sync(partial(function, *args, **kwargs), abandon_on_cancel=True)
    return await answer if inspect.isawaitable(answer) else answer


def _line(name: str, function: Callable[..., object]) -> str:
    """The call and what it does, in a line."""
    try:
        signature = str(inspect.signature(function))
    except (TypeError, ValueError):
        signature = "(…)"
    told = (inspect.getdoc(function) or "").strip().partition("\n")[0]
    return ellipsize(" ".join(f"{name}{signature}{': ' + told if told else ''}".split()), LINE_CHARS)
