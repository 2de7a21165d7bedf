"""A run with a scripted model and a scripted REPL, and its usual replies."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.loop import solve
from rlm_mcp.engine.subcalls import SubCalls
from rlm_mcp.engine.types import RunDeps, RunSpec, started_event
from rlm_mcp.errors import SubCallFailed
from rlm_mcp.models.base import Profile
from rlm_mcp.models.scripted import ScriptedCall, ScriptedModel
from rlm_mcp.records.events import name_of, to_json
from rlm_mcp.records.run import Run
from rlm_mcp.records.store import Runs
from rlm_mcp.records.tape import MemoryRecord, Tape
from rlm_mcp.records.types import Outcome
from rlm_mcp.repl.scripted import Play, ScriptedOpener
from rlm_mcp.repl.types import CellError, CellResult, Final, GuestCalls, Variable
from rlm_mcp.spending import RunLimits

LINES = [f"10:{n // 60:02}:{n % 60:02} {'ERROR disk' if n % 7 == 0 else 'INFO net'} message {n}" for n in range(3000)]
LOOK = "```repl\nprint(len(context))\n```"
COUNT = "```repl\nn = context.count('ERROR')\nprint(n)\n```"
ANSWER = "```repl\nFINAL(n)\n```"
GOOD = [
    CellResult(code="", stdout="100000\n"),
    CellResult(code="", stdout="429\n", variables=(Variable(name="n", type="int", preview="429"),)),
    CellResult(code="", final=Final(value=429)),
]
PRICED = Profile(usd_per_mtok_in=1.0, usd_per_mtok_out=4.0)
ASK = "```repl\nFINAL(llm_query('Is it?'))\n```"
ASK_CHILD = "```repl\nFINAL(rlm_query('How many disks?', context))\n```"


class World:
    """A store with one log, runs on disk, and the last run made."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory)
        self.runs = Runs(directory)
        self.log: Context = self.store.register_text("\n".join(LINES), name="app.log")
        self.record: Run | MemoryRecord = MemoryRecord()

    def begin(self, spec: RunSpec, root: ScriptedModel, limits: RunLimits) -> Run:
        run = self.runs.create(started_event(spec, root=root, sub=root, limits=limits))
        self.record = run
        return run

    def deps(
        self,
        root: ScriptedModel,
        repl: ScriptedOpener,
        record: Run | MemoryRecord,
        *,
        sub: ScriptedModel | None = None,
        tape: Tape | None = None,
    ) -> RunDeps:
        return RunDeps(
            root=root,
            sub=sub or root,
            ask_sub=SubCalls({"sub": sub or root}).ask,
            open_repl=repl,
            store=self.store,
            record=record,
            tape=tape or Tape(),
            save_after_seconds=0,
        )

    async def solve(
        self,
        replies: Sequence[Any] | Callable[[ScriptedCall], str],
        cells: Sequence[CellResult] | Play = GOOD,
        *,
        spec: RunSpec | None = None,
        limits: RunLimits | None = None,
        profile: Profile | None = None,
        sub: ScriptedModel | None = None,
    ) -> Outcome:
        spec = spec or self.spec()
        limits = limits or RunLimits()
        self.root = ScriptedModel(replies, profile=profile)
        self.repl = ScriptedOpener(cells)
        deps = self.deps(self.root, self.repl, self.begin(spec, self.root, limits), sub=sub)
        return await solve(spec, deps, Ledger(limits))

    def spec(self, **facts: Any) -> RunSpec:
        return RunSpec(query="How many errors are there?", contexts=(self.log,), **facts)

    def events(self, kind: str) -> list[dict[str, Any]]:
        events = self.record.events if isinstance(self.record, MemoryRecord) else list(self.record.events())
        return [to_json(event) for event in events if name_of(event) == kind]


def asking(**expected: Any) -> Play:
    """A REPL whose code asks the run, and whose output is what it got."""

    async def play(code: str, calls: GuestCalls) -> CellResult:
        try:
            if "rlm_query" in code:
                value = await calls.rlm_query("How many disks?", "disk\n" * 9_000)
            else:
                value = await calls.llm_query("Is 'disk full' an error?", schema="yes|no")
        except SubCallFailed as error:
            return CellResult(code="", error=CellError(type="RuntimeError", message=str(error), line=1))
        return CellResult(code="", final=Final(value=value))

    return play
