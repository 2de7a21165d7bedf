"""REPLs over the real sandbox for tests, and sub-calls that answer them."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

import anyio
import anyio.lowlevel

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Context
from rlm_mcp.engine.classify import classify
from rlm_mcp.engine.packs import Labelling
from rlm_mcp.errors import SubCallFailed
from rlm_mcp.repl.sandbox import Sandbox
from rlm_mcp.repl.types import ExpectedQuery, Repl, StartCall

PATH = "text.txt"
LINES = [f"line {i} {'ERROR' if i % 3 == 0 else 'INFO'}" for i in range(1_000)]
TEXT = "\n".join(LINES) + "\n"


class Sub:
    """Answers sub-calls; none returns before `together` of them are in flight."""

    def __init__(self, together: int = 1) -> None:
        self._together = together
        self._met = anyio.Event()
        self.prompts: list[str] = []
        self.called: list[tuple[str, list[object], dict[str, object]]] = []
        self.cancelled = 0

    async def llm_query(
        self, prompt: str, *, model: str | None = None, schema: Any = None, material: str | None = None
    ) -> object:
        self.prompts.append(prompt)
        if len(self.prompts) >= self._together:
            self._met.set()
        try:
            await self._met.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        if prompt.startswith("fail"):
            raise SubCallFailed("the model said no")
        if isinstance(schema, dict):
            shown = prompt.split("Texts:\n")[1].split("\n\nThe label", maxsplit=1)[0].splitlines()
            return {str(number): "bad" if "ERROR" in line else "good" for number, line in enumerate(shown, 1)}
        return f"answer to {prompt}"

    async def classify(
        self, items: Sequence[str], question: str, labels: Sequence[str], **options: Any
    ) -> dict[str, object]:
        options.pop("model")
        labelling = Labelling(question=question, labels=tuple(labels), examples=options.pop("examples"))
        judged = await classify(self.llm_query, items, labelling, by_measure=False, **options)
        return {**asdict(judged), "failed": list(judged.failed.items())}

    functions: Sequence[str] = ()

    async def call_function(self, name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        self.called.append((name, list(args), dict(kwargs)))
        if "fail" in args:
            raise SubCallFailed(f"{name} failed: ValueError: it may not")
        return {"name": name, "args": list(args), **kwargs}

    async def rlm_query(self, query: str, context: object, *, notes: bool = False) -> object:
        if notes:
            return [
                {"note": f"{query} in {context}", "quote": str(context), "verified": True},
                {"note": "none", "quote": "", "verified": False},
            ]
        return f"{query} over {context!r:.20}"

    def expect(self, queries: Sequence[ExpectedQuery], start: StartCall) -> None:
        """Asks nothing ahead."""

    def budget(self) -> dict[str, object]:
        return {"sub_calls": 7}


class Opener:
    """Opens REPLs that are closed at the end of the test."""

    def __init__(self, sandbox: Sandbox, store: Store, stack: AsyncExitStack) -> None:
        self.store = store
        self._sandbox = sandbox
        self._stack = stack

    async def text(self, text: str = TEXT, sub: Sub | None = None) -> Repl:
        context = await anyio.to_thread.run_sync(lambda: self.store.register_text(text, name="app.log"))
        return await self.over([context], sub)

    async def over(self, contexts: list[Context], sub: Sub | None = None, value: object = None) -> Repl:
        opening = self._sandbox.open_repl(self.store, contexts, sub or Sub(), value=value)
        return await self._stack.enter_async_context(opening)


async def value_of(repl: Repl, code: str) -> str | None:
    cell = await repl.run(code)
    assert cell.error is None, cell.error
    return cell.value
