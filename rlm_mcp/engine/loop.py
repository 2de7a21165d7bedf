"""The algorithm: a root model writes code over a context it has not seen, until code sets the final answer.

    state = REPL(context);  history = facts about the context, never the context itself
    repeat:  code ← root model(history)
             result ← run code; the code may ask sub-models, or whole runs like this one over parts
             history ← history + code + head, tail and true length of the output
    until the code has set the final answer

Every decision of a run can be found from here: which way (router.py), what a reply or a result means and what is said
next (trajectory.py), which answer is accepted (judge.py), what may be spent (budget.py), what an answer rests on
(citations.py), and how it ends (outcome.py). Level does the rest: it asks, runs and records, and knows what the record
already holds.
"""

import anyio

from rlm_mcp.concurrency import run_off_loop
from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.direct import answer_directly
from rlm_mcp.engine.grounding import chars_of_cell
from rlm_mcp.engine.level import Level
from rlm_mcp.engine.outcome import Ending, limit_of, stopped_by
from rlm_mcp.engine.steps import Finish, RunBlock
from rlm_mcp.engine.types import RunDeps, RunSpec
from rlm_mcp.errors import BudgetExceeded, RlmError
from rlm_mcp.records.types import Outcome


async def solve(spec: RunSpec, deps: RunDeps, ledger: Ledger) -> Outcome:
    """Runs one query to its end. Only cancellation and bugs come out as exceptions; the best answer is recorded."""
    level = Level(spec, deps, ledger, run_child=solve)
    ending: Ending | None = None
    try:
        ending = await _answer(level)
        evidence = await level.weigh_evidence(ending.finish.answer)
    except anyio.get_cancelled_exc_class():
        best = ending.finish if ending is not None else level.judge.best()
        await level.end(Ending(finish=best, stopped_by="cancelled", message="Cancelled."))
        raise
    return await level.end(ending, evidence)


async def _answer(level: Level) -> Ending:
    """Answers directly or by the loop. A limit or an error ends it with the best answer so far."""
    try:
        level.record_way()
        if level.way.mode == "direct":
            return Ending(finish=await answer_directly(level), stopped_by="final")
        trajectory = await level.begin_trajectory()
        async with level.open_repl() as repl:
            while True:
                turn = level.begin_turn()
                ask = trajectory.ask(turn.left, last=turn.why_last)
                reply = await level.ask_root(turn, ask, trajectory, repl)
                step = await run_off_loop(len(reply), trajectory.receive_reply, reply)
                while isinstance(step, RunBlock):
                    cell = await level.run_block(turn, step, repl)
                    chars = chars_of_cell(cell) + level.chars_to_check
                    step = await run_off_loop(chars, trajectory.receive_cell, cell)
                level.record_decision(turn, step)
                if isinstance(step, Finish):
                    return Ending(finish=step, stopped_by=stopped_by(step, turn))
    except BudgetExceeded as error:
        return Ending(finish=level.judge.best(), stopped_by=limit_of(error.which), message=str(error))
    except RlmError as error:
        return Ending(finish=level.judge.best(), stopped_by="error", message=str(error))
