"""The values that the trajectory takes and gives: the question, the rules for a model, and what to do next."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlm_mcp.engine.cell_display import Strength
from rlm_mcp.engine.policy import STRONG, ModelPolicy
from rlm_mcp.models.base import Message

AnsweredBy = Literal["FINAL", "FINAL_VAR", "SUBMIT", "answer", "value", "text", "invalid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The query of a run. `check` says in one sentence why a value breaks the output schema, or None."""

    query: str
    schema: Mapping[str, Any] | None = None
    check: Callable[[object], str | None] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Settings of a trajectory that depend on the models and not on the question."""

    policy: ModelPolicy = STRONG
    sub_errs: bool = False
    """whether what sub-models judge is doubtful by itself"""
    window_tokens: int = 128_000
    reply_tokens: int = 8_192
    sub_prompt_chars: int = 100_000
    sub_usd_per_mtok: float | None = None
    """dollars for a million tokens of a sub-call's prompt, if known"""
    summarises: bool = False
    """whether the model is asked for a summary of its dialogue where that gets too long for the window"""
    imports: tuple[str, ...] = ()
    """what can be imported besides the standard library"""
    functions: tuple[str, ...] = ()
    """lines about functions of the caller"""

    @property
    def strength(self) -> Strength:
        """Which prompts the model gets."""
        return self.policy.strength


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Send these messages; any reply ends the run if `is_last`. A `temperature` of None is the provider's default."""

    messages: tuple[Message, ...]
    turn: int
    is_last: bool
    temperature: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBlock:
    """Run this block in the REPL and pass its result to `receive_cell`. `block` is its number in the reply, from 1."""

    code: str
    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Ask the model again.

    `why` names the decision for the record: output, nudge, doubt, restart, press, read, compact.
    """

    why: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The run has its answer. `doubt` says in words why the answer is not confirmed, if it is not.

    `reasons` are what code finds against an answer, confirmed or not (answer_checks.py). `is_typed` says that the model
    wrote the value itself, from what it had read.
    """

    answer: Any
    answered_by: AnsweredBy
    doubt: str = ""
    reasons: tuple[str, ...] = ()
    is_typed: bool = False

    @property
    def doubts(self) -> str:
        """All that speaks against the answer, in one line."""
        return "; ".join(part for part in (self.doubt, *self.reasons) if part)


Step = RunBlock | Again | Finish
