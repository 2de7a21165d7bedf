"""Sub-calls of code at the prompt, to the configured model and within the limits of one run."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio

from rlm_mcp.engine.budget import Ledger
from rlm_mcp.engine.coverage import Reading
from rlm_mcp.engine.guest_calls import RunCalls
from rlm_mcp.engine.subcalls import SubCalls
from rlm_mcp.records.tape import Tape
from rlm_mcp.repl.types import ExpectedQuery, StartCall
from rlm_mcp.spending import RunLimits
from rlm_mcp.workspace.launch import Models


class PromptCalls:
    """The GuestCalls of a prompt. Models are chosen at the first call, which may raise NoModelConfigured."""

    def __init__(self, choose: Callable[[], Awaitable[Models]], limits: RunLimits) -> None:
        self._choose = choose
        self._ledger = Ledger(replace(limits, max_seconds=None))  # a person may take any time
        self._calls: RunCalls | None = None
        self._choosing = anyio.Lock()

    def __repr__(self) -> str:
        return f"<PromptCalls, {self._ledger.spent().sub_calls} made>"

    async def llm_query(
        self, prompt: str, *, model: str | None = None, schema: object | None = None, material: str | None = None
    ) -> object:
        """One sub-call."""
        return await (await self._chosen()).llm_query(prompt, model=model, schema=schema, material=material)

    async def classify(
        self, items: Sequence[str], question: str, labels: Sequence[str], **options: Any
    ) -> dict[str, object]:
        """Labels for many items."""
        return await (await self._chosen()).classify(items, question, labels, **options)

    async def rlm_query(self, query: str, context: object, *, notes: bool = False) -> object:
        """One sub-call with the context as its material; without a run there are no child runs."""
        return await (await self._chosen()).rlm_query(query, context, notes=notes)

    functions: Sequence[str] = ()

    async def call_function(self, name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """A prompt has no functions of a caller."""
        return await (await self._chosen()).call_function(name, args, kwargs)

    def expect(self, queries: Sequence[ExpectedQuery], start: StartCall) -> None:
        """Asks some of it already."""
        if self._calls is not None:
            self._calls.expect(queries, start)

    def budget(self) -> dict[str, object]:
        """The rest of the limits."""
        left = self._ledger.left()
        return {"usd": left.usd, "tokens": left.tokens, "sub_calls": left.sub_calls}

    async def _chosen(self) -> RunCalls:
        async with self._choosing:
            if self._calls is None:
                models = await self._choose()
                self._ledger.require_prices((models.sub,))
                self._calls = RunCalls(
                    ask=SubCalls(models.named).ask,
                    child=None,
                    ledger=self._ledger,
                    tape=Tape(),
                    reading=Reading(),
                    profiles={name: model.profile for name, model in models.named.items()},
                    record=lambda _: None,
                )
        return self._calls
