"""The algorithm: a root model writes code over a context it has not seen, until code sets the final answer.

    state = REPL(context);  history = facts about the context, never the context itself
    repeat:  code ← root model(history)
             result ← run code; the code may ask sub-models, or whole runs like this one over parts
             history ← history + code + head, tail and true length of the output
    until the code has set the final answer

Every decision of a run can be found from here: which way (router.py), what a reply or a result means and what is said
next (trajectory.py), what may be spent (budget.py), what an answer rests on (evidence.py). Level does the rest: it
asks, runs and records, and knows what the record already holds.
"""

import anyio

from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.level import Level, limit_of
from rlm_mcp.engine.steps import Again, Finish, RunBlock, Step
from rlm_mcp.engine.types import RunDeps, RunSpec
from rlm_mcp.errors import BudgetExceeded, RlmError
from rlm_mcp.records.types import Outcome, StoppedBy


async def solve(spec: RunSpec, deps: RunDeps, ledger: Ledger) -> Outcome:
    """Runs one question to its end. Only cancellation and bugs come out as exceptions; the best answer is recorded."""
    level = Level(spec, deps, ledger, run_child=solve)
    finish: Finish | None = None
    try:
        finish, stopped_by, message = await _answer(level)
        unchecked = await level.weigh_evidence(finish.answer)
    except anyio.get_cancelled_exc_class():
        await level.end(finish or level.best(), "cancelled", "Cancelled.")
        raise
    return await level.end(finish, stopped_by, message, unchecked)


async def _answer(level: Level) -> tuple[Finish, StoppedBy, str]:
    """The answer, what ended the run, and what there is to say about it."""
    step: Step = Again(why="start")
    try:
        way = await level.choose_way()
        if way.mode == "direct":
            return await level.answer_directly(), "final", ""
        trajectory = level.trajectory
        async with level.open_repl() as repl:
            while not isinstance(step, Finish):
                ask = trajectory.ask(level.remaining(), last=level.why_last())
                step = trajectory.receive_reply(await level.ask_root(ask, repl))
                while isinstance(step, RunBlock):
                    step = trajectory.receive_cell(await level.run(repl, step))
                level.note(step)
    except BudgetExceeded as error:
        return level.best(), limit_of(error.which), str(error)
    except RlmError as error:
        return level.best(), "error", str(error)
    return step, level.stopped_by(step), ""
