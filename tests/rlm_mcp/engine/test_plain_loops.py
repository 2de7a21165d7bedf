"""Plain loops of sub-calls in the real REPL: they are answered in parallel, and paid as if they had run in turn."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.coverage import Reading
from rlm_mcp.engine.guest_calls import RunCalls
from rlm_mcp.engine.subcalls import SubCalls
from rlm_mcp.errors import ProviderFailed
from rlm_mcp.models.base import Profile
from rlm_mcp.models.scripted import ScriptedCall, ScriptedModel
from rlm_mcp.records.events import Event, SubReply
from rlm_mcp.records.tape import Tape
from rlm_mcp.repl.sandbox import Sandbox, open_sandbox
from rlm_mcp.repl.types import CellResult, ExpectedQuery, StartCall
from rlm_mcp.spending import RunLimits, Spent

pytestmark = pytest.mark.anyio

PRICED = Profile(usd_per_mtok_in=1.0, usd_per_mtok_out=1.0, max_output_tokens=200)
# Long enough for copies to report while a call is in flight; what is asserted does not depend on it.
REPLY_SECONDS = 0.006

LOOPS = {
    "plain": "for i in range(14): out.append(llm_query(f'item {i}'))",
    "the same again": "for i in range(14): out.append(llm_query(f'item {i % 5}'))",
    "two stages": "for i in range(7): out.append(llm_query('again ' + llm_query(f'item {i}')))",
    "sometimes two": "for i in range(9):\n    if 'odd' in llm_query(f'item {i}'): out.append(llm_query(f'more {i}'))",
    "a running summary": "for i in range(9): out.append(llm_query(f'{out} {i}'))",
    "some fail": "for i in range(9):\n    try: out += [llm_query(f'fail {i}')]\n    except RuntimeError as e: print(e)",
    "an exception": "for i in range(9): out.append(9 // (i - 6) + len(llm_query(f'item {i}')))",
    "children": "for i in range(9): out.append(rlm_query('sum?', [i]))",
}


class InTurn(RunCalls):
    """Never asks ahead."""

    def expect(self, queries: Sequence[ExpectedQuery], start: StartCall) -> None:
        pass


def reply(asked: ScriptedCall) -> str | Exception:
    head = asked.last.splitlines()[0]
    if head in ("fail 1", "fail 5"):
        return ProviderFailed("no")
    return f"{'odd' if len(head) % 2 or head.endswith(('1', '4')) else 'even'} {head[-30:]}"


@dataclass
class Bench:
    """What one block is run with; `events` is what was recorded."""

    sandbox: Sandbox
    store: Store
    model: ScriptedModel
    limits: RunLimits
    kind: type[RunCalls] = RunCalls
    tape: Tape = field(default_factory=Tape)
    events: list[Event] = field(default_factory=list)

    async def run(self, code: str) -> CellResult:
        self.ledger = Ledger(self.limits)
        async with SubCalls({"m": self.model}).open() as subs:
            calls = self.kind(
                ask=subs.ask,
                child=None,
                ledger=self.ledger,
                profiles={self.model.name: self.model.profile},
                tape=self.tape,
                reading=Reading(),
                record=self.events.append,
            )
            async with self.sandbox.open_repl(self.store, [], calls, value="") as repl:
                return await repl.run("out = []\n" + code + "\nout")

    def bill(self) -> Spent:
        return replace(self.ledger.spent(), seconds=0, calls_in_vain=0)


@asynccontextmanager
async def opened(cache: Path, directory: Path) -> AsyncIterator[tuple[Sandbox, Store]]:
    with Store(directory) as store, anyio.fail_after(60):
        async with open_sandbox(cache) as sandbox:
            yield sandbox, store


def scripted() -> ScriptedModel:
    return ScriptedModel(reply, profile=PRICED, seconds=REPLY_SECONDS)


LIMITS = [
    RunLimits(),
    RunLimits(concurrency=3),
    RunLimits(max_sub_calls=7),
    RunLimits(max_tokens=1_200),
    RunLimits(max_usd=0.0012),
]


@pytest.mark.parametrize("limits", LIMITS, ids=["no limits", "concurrency", "sub-calls", "tokens", "dollars"])
async def test_result_and_bill_are_those_of_calls_in_turn(
    limits: RunLimits, sandbox_cache: Path, tmp_path: Path
) -> None:
    async with opened(sandbox_cache, tmp_path) as (sandbox, store):
        for loop in LOOPS.values():
            ahead = Bench(sandbox, store, scripted(), limits)
            in_turn = Bench(sandbox, store, scripted(), limits, kind=InTurn)
            results = [await bench.run(loop) for bench in (ahead, in_turn)]
            assert facts(results[0]) == facts(results[1])
            assert (loop, ahead.bill()) == (loop, in_turn.bill())
            assert ahead.ledger.spent().calls_in_vain == 0


def facts(result: CellResult) -> object:
    return result.stdout, result.value, result.error and result.error.message


async def test_the_calls_of_a_loop_are_in_flight_together(sandbox_cache: Path, tmp_path: Path) -> None:
    together = anyio.Event()

    class Meeting(ScriptedModel):
        """Answers two calls, and the third once five more are in flight."""

        async def complete(self, *args: object, **kwargs: object) -> object:  # type: ignore[override] # passes all on
            if len(self.calls) == 7:
                together.set()
            if len(self.calls) >= 2:
                self.calls.append(ScriptedCall(messages=()))
                await together.wait()
                self.calls.pop()
            return await super().complete(*args, **kwargs)  # type: ignore[arg-type] # likewise

    async with opened(sandbox_cache, tmp_path) as (sandbox, store):
        bench = Bench(sandbox, store, Meeting(reply, profile=PRICED), RunLimits())
        assert (await bench.run("for i in range(8): out.append(llm_query(f'item {i}'))")).error is None


@pytest.mark.parametrize(
    "loop",
    [
        "for i in range(14):\n    llm_query(f'item {i}')\n    print(budget()['sub_calls'])",
        "while budget()['sub_calls'] > 90: out.append(llm_query(f'item {len(out)}'))",
    ],
)
async def test_code_that_asks_for_the_budget_sees_what_calls_in_turn_leave(
    loop: str, sandbox_cache: Path, tmp_path: Path
) -> None:
    async with opened(sandbox_cache, tmp_path) as (sandbox, store):
        limits = RunLimits(max_sub_calls=100)
        ahead = Bench(sandbox, store, scripted(), limits)
        in_turn = Bench(sandbox, store, scripted(), limits, kind=InTurn)
        results = [await bench.run(loop) for bench in (ahead, in_turn)]
        assert facts(results[0]) == facts(results[1])
        assert ahead.ledger.spent().calls_in_vain == 0


async def test_a_large_call_that_fits_in_turn_fits_ahead_too(sandbox_cache: Path, tmp_path: Path) -> None:
    loop = "for i in range(9):\n    a = llm_query(f'item {i}')\n    if i == 5: out.append(llm_query(a + '中 x' * 4000))"
    async with opened(sandbox_cache, tmp_path) as (sandbox, store):
        limits = RunLimits(max_tokens=10_731)
        ahead = Bench(sandbox, store, scripted(), limits)
        in_turn = Bench(sandbox, store, scripted(), limits, kind=InTurn)
        results = [await bench.run(loop) for bench in (ahead, in_turn)]
        assert facts(results[0]) == facts(results[1])
        assert ahead.bill() == in_turn.bill()


async def test_an_early_end_leaves_at_most_one_call_in_ten_in_vain_and_a_resumed_run_has_its_answer(
    sandbox_cache: Path, tmp_path: Path
) -> None:
    loop = "for i in range(40):\n    out.append(llm_query(f'item {i}'))\n    if len(out) == stop and out[-1]: break"
    async with opened(sandbox_cache, tmp_path) as (sandbox, store):
        first = Bench(sandbox, store, scripted(), RunLimits())
        result = await first.run("stop = 20\n" + loop)
        assert result.value is not None
        assert result.value.count("item") == 20
        spent = first.ledger.spent()
        assert spent.sub_calls == 20 + spent.calls_in_vain
        assert spent.calls_in_vain <= 2
        assert len([event for event in first.events if isinstance(event, SubReply)]) == spent.sub_calls
        resumed = Bench(sandbox, store, scripted(), RunLimits(), tape=Tape(first.events))
        await resumed.run("stop = 30\n" + loop)
        assert len(first.model.calls) + len(resumed.model.calls) - resumed.ledger.spent().calls_in_vain == 30


async def test_a_cancelled_run_ends_what_was_asked_ahead(sandbox_cache: Path, tmp_path: Path) -> None:
    class Endless(ScriptedModel):
        """Answers two calls, and no more."""

        in_flight = 0

        async def complete(self, *args: object, **kwargs: object) -> object:  # type: ignore[override] # passes all on
            if len(self.calls) >= 2:
                self.in_flight += 1
                if self.in_flight == 5:
                    scope.cancel()
                try:
                    await anyio.sleep_forever()
                finally:
                    self.in_flight -= 1
            return await super().complete(*args, **kwargs)  # type: ignore[arg-type] # likewise

    async with opened(sandbox_cache, tmp_path) as (sandbox, store):
        model = Endless(reply, profile=PRICED)
        bench = Bench(sandbox, store, model, RunLimits())
        with anyio.CancelScope() as scope:
            await bench.run("for i in range(40): out.append(llm_query(f'item {i}'))")
        with anyio.fail_after(5):
            while model.in_flight:
                await anyio.lowlevel.checkpoint()
        assert scope.cancel_called
