"""One turn of a run as a value: its number, what is left, why it has to be the last, what the record holds of it."""

from dataclasses import dataclass

from rlm_mcp.engine.budget import BudgetLeft
from rlm_mcp.engine.policy import policy_of
from rlm_mcp.engine.prompts import Remaining
from rlm_mcp.errors import RunRecordDamaged
from rlm_mcp.models.base import Profile
from rlm_mcp.records.events import RootReply
from rlm_mcp.spending import RunLimits

LAST_SHARE = 0.15  # of the seconds: room for the last turn, which is a model call and a short block
LEAST_REPLY_TOKENS = 256  # a short block that submits a variable


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A turn that has begun. `taped` is the root model's reply, if it is on record.

    `limit` is the limit that makes this turn the last one ("seconds", "usd" or "tokens"), and `why_last` says it in
    words; both are empty if another turn can follow.
    """

    left: Remaining
    limit: str = ""
    why_last: str = ""
    taped: RootReply | None = None

    @property
    def number(self) -> int:
        """Counts from 1."""
        return self.left.turn


def turn_on_tape(taped: RootReply) -> Turn:
    """The turn as it was when the root model gave this reply. Raises RunRecordDamaged."""
    try:
        limit, why_last = taped.last
        left = Remaining(**taped.left)
    except (TypeError, ValueError) as error:
        raise RunRecordDamaged(
            f"the record of turn {taped.turn} is damaged, so the run cannot go on from there: ask the question again"
        ) from error
    return Turn(left=left, limit=limit, why_last=why_last, taped=taped)


def new_turn(number: int, left: BudgetLeft, limits: RunLimits, root: Profile, *, longest_prompt: int) -> Turn:
    """A turn that is not on record. `longest_prompt` is an upper estimate of the tokens of the longest one so far."""
    turns = limits.max_iterations or policy_of(root).turns
    limit, why_last = _last(left, limits, root, longest_prompt)
    return Turn(
        left=Remaining(
            turn=number, turns=turns, seconds=left.seconds, usd=left.usd, sub_calls=left.sub_calls, tokens=left.tokens
        ),
        limit=limit,
        why_last=why_last,
    )


def _last(left: BudgetLeft, limits: RunLimits, root: Profile, longest_prompt: int) -> tuple[str, str]:
    """The limit that has room for one call at most, and the same in words.

    The ledger sets aside more for a call than it costs, so what was reserved for the dearest call so far is counted.
    """
    tokens = longest_prompt + LEAST_REPLY_TOKENS if longest_prompt else 0
    usd = root.cost_usd(longest_prompt, LEAST_REPLY_TOKENS) or 0.0 if longest_prompt else 0.0
    if left.seconds is not None and limits.max_seconds is not None and left.seconds < LAST_SHARE * limits.max_seconds:
        return "seconds", "the time is nearly used up"
    if left.usd is not None and left.usd < 2 * usd:
        return "usd", "the dollars are nearly used up"
    if left.tokens is not None and left.tokens < 2 * tokens:
        return "tokens", "the tokens are nearly used up"
    return "", ""
