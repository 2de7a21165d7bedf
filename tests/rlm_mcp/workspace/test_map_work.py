"""Work on maps of other processes, in copies of real sessions: what they can read, and what they cannot do."""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.from_thread
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.errors import RlmError, UnknownContext
from rlm_mcp.packages.library import PackageLibrary
from rlm_mcp.packages.types import PackagesMissing
from rlm_mcp.repl.host_calls import host_calls, reading_calls
from rlm_mcp.repl.maps import MapItems, MapNeeds, MapOutcome
from rlm_mcp.repl.sandbox import Sandbox, open_sandbox
from rlm_mcp.workspace.map_work import MapNotPossible, MapWork
from rlm_mcp.workspace.run_images import RunImages
from tests.rlm_mcp.repl.opener import TEXT, Sub

pytestmark = pytest.mark.anyio


class Supply:
    """Gives all items that are there, and takes all outcomes."""

    def __init__(self, items: MapItems) -> None:
        self._items = items
        self._left = set(items.take(1_000))
        self.finished: dict[int, MapOutcome | None] = {}

    def exchange(self, finished: Mapping[int, MapOutcome | None]) -> Collection[int] | None:
        self.finished |= finished
        self._left -= finished.keys()
        for item, outcome in finished.items():
            if outcome is None:
                self._items.give_back([item], keep=True)
            else:
                self._items.finish(item, outcome)
        return self._left or None

    def end(self) -> None:
        self._items.give_back(self._left)


class Elsewhere:
    """Shares maps with a MapWork, as another process of a cluster has one."""

    def __init__(self, work: MapWork, change: Callable[[MapNeeds], MapNeeds] = lambda needs: needs) -> None:
        self._work, self._change = work, change
        self._maps: MemoryObjectSendStream[tuple[MapItems, MapNeeds, Supply]]
        self.supplies: list[Supply] = []
        self.failures: list[RlmError] = []

    @contextmanager
    def __call__(self, items: MapItems, needs: MapNeeds) -> Iterator[None]:
        supply = Supply(items)
        self.supplies.append(supply)
        anyio.from_thread.run_sync(self._maps.send_nowait, (items, needs, supply), token=self._token)
        yield

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        self._token = anyio.lowlevel.current_token()
        self._maps, maps = anyio.create_memory_object_stream[tuple[MapItems, MapNeeds, Supply]](10)
        async with anyio.create_task_group() as tasks, self._maps, maps:
            tasks.start_soon(self._serve, maps)
            yield
            tasks.cancel_scope.cancel()

    async def _serve(self, maps: MemoryObjectReceiveStream[tuple[MapItems, MapNeeds, Supply]]) -> None:
        async for items, needs, supply in maps:

            async def checkpoint(items: MapItems = items) -> bytes | None:
                saved = items.checkpoint()
                return None if saved is None else saved.to_bytes()

            try:
                await self._work.work_on(self._change(needs), checkpoint, supply, workers=1, seconds=20.0)
            except RlmError as error:
                self.failures.append(error)
            supply.end()


@pytest.fixture
async def sandbox(sandbox_cache: Path) -> AsyncIterator[Sandbox]:
    async with open_sandbox(sandbox_cache) as sandbox:
        yield sandbox


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "data") as store:
        yield store


@pytest.fixture
def context(store: Store) -> Context:
    return store.register_text(TEXT, name="app.log")


def work_with(store: Store, sandbox: Sandbox, directory: Path) -> MapWork:
    def never(_: object) -> None:
        raise AssertionError("a map opens no REPL")

    images = RunImages(library=PackageLibrary(directory), chosen=None, open_with=never)  # type: ignore[arg-type] # not called
    return MapWork(store=store, sandbox=sandbox, images=images, owner="a tenant")


async def run_map(
    store: Store, sandbox: Sandbox, elsewhere: Elsewhere, context: Context, code: str, sub: Sub | None = None
) -> str | None:
    with anyio.fail_after(60):
        async with elsewhere.working(), AsyncExitStack() as stack:
            opening = sandbox.open_repl(store, [context], sub or Sub(), share_map=elsewhere, owner="a tenant")
            repl = await stack.enter_async_context(opening)
            cell = await repl.run(code)
    assert cell.error is None, cell.error
    return cell.value


async def test_copies_elsewhere_read_and_search_the_contexts(
    store: Store, sandbox: Sandbox, context: Context, tmp_path: Path
) -> None:
    elsewhere = Elsewhere(work_with(store, sandbox, tmp_path))
    code = """
lines = context.splitlines()
def f(n):
    return len(search(f'line {n} ')), context[:6], lines[n], len(open('/context/app.log/text.txt').read())
parallel_map(f, range(6))
"""
    value = await run_map(store, sandbox, elsewhere, context, code)
    lines = TEXT.splitlines()
    assert value == str([(1, "line 0", lines[n], len(TEXT)) for n in range(6)])
    ((supply,), failures) = elsewhere.supplies, elsewhere.failures
    assert (len(supply.finished), None in supply.finished.values(), failures) == (6, False, [])


async def test_sub_calls_are_asked_by_the_run_once_each(
    store: Store, sandbox: Sandbox, context: Context, tmp_path: Path
) -> None:
    elsewhere, sub = Elsewhere(work_with(store, sandbox, tmp_path)), Sub()
    value = await run_map(
        store,
        sandbox,
        elsewhere,
        context,
        "parallel_map(lambda n: llm_query(f'{n}') if n % 3 == 0 else n, range(9))",
        sub,
    )
    assert value == str([f"answer to {n}" if n % 3 == 0 else n for n in range(9)])
    assert sorted(sub.prompts) == ["0", "3", "6"]


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        (lambda needs: replace(needs, image="another"), MapNotPossible),
        (lambda needs: replace(needs, packages={"image": "a", "packages": ["numpy 1"]}), PackagesMissing),
        (lambda needs: replace(needs, context_ids=("ctx-of-nobody",)), UnknownContext),
    ],
)
async def test_a_process_that_lacks_something_does_not_work_on_the_map_which_goes_on(
    store: Store,
    sandbox: Sandbox,
    context: Context,
    tmp_path: Path,
    change: Callable[[MapNeeds], MapNeeds],
    failure: type[RlmError],
) -> None:
    elsewhere = Elsewhere(work_with(store, sandbox, tmp_path), change)
    assert await run_map(store, sandbox, elsewhere, context, "parallel_map(abs, range(3))") == "[0, 1, 2]"
    assert [type(error) for error in elsewhere.failures] == [failure]
    assert elsewhere.supplies[0].finished == {}


async def test_a_map_cannot_be_worked_on_with_the_contexts_of_another_tenant(
    store: Store, sandbox: Sandbox, context: Context, tmp_path: Path
) -> None:
    with Store(tmp_path / "another") as another:
        elsewhere = Elsewhere(work_with(another, sandbox, tmp_path))
        code = "parallel_map(lambda n: len(context), range(3))"
        assert await run_map(store, sandbox, elsewhere, context, code) == str([len(TEXT)] * 3)
        assert [type(error) for error in elsewhere.failures] == [UnknownContext]
        assert elsewhere.supplies[0].finished == {}


def test_a_copy_elsewhere_has_all_functions_of_the_session(store: Store, context: Context) -> None:
    handoff = type("Handoff", (), {"make_queue": lambda *_: None})()
    at_home = host_calls(store, [context], Sub(), handoff)
    assert at_home.keys() == reading_calls(store, [context]).keys()
