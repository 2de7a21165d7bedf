"""A data directory with workspaces as if of several processes, and a model whose second turn is held."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio

from rlm_mcp.models.base import Attempts, Completion, Message, Profile, Usage
from rlm_mcp.records.types import RunState
from rlm_mcp.repl.scripted import ScriptedOpener
from rlm_mcp.repl.types import CellResult, Final, GuestCalls
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.backends import Backends
from rlm_mcp.workspace.launch import RunModels, SolveRequest
from rlm_mcp.workspace.tenant_limits import LocalLimits
from rlm_mcp.workspace.workspace import Workspace, open_workspace

REQUEST = SolveRequest(query="How many?", contexts=("t",), mode="rlm")


class Model:
    """A model that answers once it has looked `looks` times. From its second call on it waits until `go` is set."""

    name = "model"
    provider = "test"
    profile = Profile()

    def __init__(self) -> None:
        self.go = anyio.Event()
        self.waits = anyio.Event()
        self.asked = 0
        self.looks = 1
        self.is_slow_to_stop = False

    async def complete(
        self, messages: Sequence[Message], *, attempts: Attempts | None = None, **_: object
    ) -> Completion:
        await (attempts or Attempts()).begin()
        self.asked += 1
        looked = sum(message.role == "assistant" for message in messages)
        if looked:
            self.waits.set()
            with anyio.CancelScope(shield=self.is_slow_to_stop):
                await self.go.wait()
        code = "len(context)" if looked < self.looks else "FINAL(n)"
        return Completion(text=f"```repl\n{code}\n```", usage=Usage(prompt_tokens=10))


class Machine:
    """One data directory; `open` opens it as another process would."""

    def __init__(self, directory: Path) -> None:
        self.settings = Settings(data_dir=directory / "data", cache_dir=directory / "cache", sub_call_cache=False)
        self.model = Model()

    def open(
        self, *, most_runs: int | None = None, serves: bool = False, backends: Backends | None = None
    ) -> AbstractAsyncContextManager[Workspace]:
        async def choose(root: str | None, sub: str | None) -> RunModels:
            return RunModels(root=self.model, sub=self.model)

        async def run_cell(code: str, calls: GuestCalls) -> CellResult:
            return CellResult(code=code, value="9", final=Final(value=9) if "FINAL" in code else None)

        return open_workspace(
            self.settings,
            choose=choose,
            open_repl=ScriptedOpener(run_cell),
            limits=LocalLimits(most_runs=most_runs),
            serves=serves,
            backends=backends,
        )


async def ended(workspace: Workspace, run_id: str) -> RunState:
    """The state of a run once it has ended."""
    async for _ in workspace.runs.follow(run_id):
        pass
    return await workspace.runs.state(run_id)


async def started(workspace: Workspace, request: SolveRequest = REQUEST) -> str:
    """A run over a text that is registered first."""
    await workspace.contexts.register(text="some text", name="t")
    return await workspace.runs.start(request)


async def begun(workspace: Workspace, machine: Machine, request: SolveRequest = REQUEST) -> str:
    """A run in its second turn."""
    run_id = await started(workspace, request)
    await machine.model.waits.wait()
    return run_id


async def lost_twice(workspace: Workspace, machine: Machine) -> str:
    """A run whose client was lost, asked the same again, and was lost again while the second turn was in flight."""
    run_id = await begun(workspace, machine)
    await workspace.calls.keep_for_repeat(run_id)
    workspace.calls.give_up(run_id)
    await ended(workspace, run_id)
    machine.model.waits = anyio.Event()
    assert await workspace.runs.start(REQUEST) == run_id
    await machine.model.waits.wait()
    await workspace.calls.keep_for_repeat(run_id)
    workspace.calls.give_up(run_id)
    return run_id
