"""The policy for a run's models: every rule that depends on how strong a model is, with its two settings.

Small local models write usable code and judge short texts, but repeat themselves, type what they should compute, and
get lost in long prompts. Each field is one rule. The rest of the engine reads the field and does not ask which kind of
model it has; prompts.py and cell_display.py have the two wordings. A rule stays here only if it wins on held-out tasks
(docs/weak-models.md). weak_dialogue.py carries out the rules that take several turns.
"""

from dataclasses import dataclass
from typing import Literal

from rlm_mcp.models.base import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPolicy:
    """The rules for one kind of model. The first part is about a root model, the last about a sub-model."""

    strength: Literal["strong", "weak"]
    """which prompts the model gets, and how much of an output it is shown"""

    turns: int
    """where the caller sets no limit"""
    reply_tokens: int
    temperature: float | None
    """None is the provider's default"""
    stop: tuple[str, ...]
    """a reply ends before the first of these texts"""
    direct_tokens: int
    """a context of up to so many tokens is put into one direct call"""
    direct_aggregate_tokens: int
    """the same where the question counts or compares; 0 for none"""
    runs_children: bool
    """whether `rlm_query` makes a run of its own"""

    reads_lines_first: bool
    """whether it is asked to read the answer in the lines that hold rare words of the question, before any code"""
    keeps_code_only: bool
    """whether its history holds only the code of its replies, each block once"""
    runs_same_code: bool
    """whether code that was run before is run again; else the dialogue starts over, or the final step is asked for"""
    restarts: int
    """how often the dialogue starts over after code that failed or found nothing; then the run ends"""
    restart_temperature: float
    """at the temperature of the other turns the same prompt would bring the same reply"""
    presses: int
    """how often a short prompt asks for the final step where good code is repeated"""
    counts_places: bool
    """whether its brief counts the words of the question by the field of the lines that they stand in"""
    shows_real_lines: bool
    """whether failures and results that suggest a wrong pattern are answered with real lines"""

    doubts_zero: bool
    looks_up_typed: bool
    """whether a typed answer that occurs in no output is doubted"""
    uses_names: bool
    """whether code that does not use a name of the question is doubted"""
    wants_number: bool
    """whether a question of how many is to be answered with a number"""

    sub_reply_tokens: int | None
    sub_temperature: float | None
    """None is the provider's default, and some models refuse the parameter"""
    requires_material: bool
    """whether a sub-call that asks about a text without holding any is refused"""
    errs_in_verdicts: bool
    """whether what it judges is doubtful by itself"""
    packs_by_measure: bool
    """whether `classify` measures how many texts the model can judge at once; else it is asked about a few"""
    leads_children: bool
    """whether it is the root model of child runs; else the model that asks for them is"""


STRONG = ModelPolicy(
    strength="strong",
    turns=20,
    reply_tokens=16_384,  # thinking included; the ledger sets this much aside while a call is in flight
    temperature=None,
    stop=(),
    direct_tokens=1 << 14,  # the paper's break-even point
    direct_aggregate_tokens=1_500,  # as much as a model can count or compare by reading
    runs_children=True,
    reads_lines_first=False,
    keeps_code_only=False,
    runs_same_code=True,
    restarts=0,
    restart_temperature=0.0,
    presses=0,
    counts_places=False,
    shows_real_lines=False,
    doubts_zero=False,
    looks_up_typed=False,
    uses_names=False,
    wants_number=False,
    sub_reply_tokens=None,
    sub_temperature=None,
    requires_material=False,
    errs_in_verdicts=False,
    packs_by_measure=True,
    leads_children=True,
)

WEAK = ModelPolicy(
    strength="weak",
    turns=10,  # what it has not found by then it does not find
    reply_tokens=400,  # a longer reply repeats itself
    temperature=0.0,
    stop=("\n```\n\n",),  # what follows the block explains it, and is not read
    direct_tokens=200,  # it reads even short texts badly, but writes code and judges single lines well
    direct_aggregate_tokens=0,  # it counted none of four short texts right by reading them, and told no doubt
    runs_children=False,
    reads_lines_first=True,
    keeps_code_only=True,
    runs_same_code=False,
    restarts=2,  # of 33 later ones, three led to the right answer
    restart_temperature=0.8,
    presses=2,  # one that answers two fresh final prompts with old code has nothing more to give
    counts_places=True,
    shows_real_lines=True,
    doubts_zero=True,
    looks_up_typed=True,
    uses_names=True,
    wants_number=True,
    sub_reply_tokens=1_024,  # as `reply_tokens`, for extracts
    sub_temperature=0.0,  # small models judge best so
    requires_material=True,
    errs_in_verdicts=True,
    packs_by_measure=False,
    leads_children=False,  # led by a 1.5B model, none of six over a channel of 465 lines was right
)


def policy_of(profile: Profile) -> ModelPolicy:
    """The policy for a model of this profile."""
    return WEAK if profile.strength == "weak" else STRONG
