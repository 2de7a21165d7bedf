"""Sub-calls that are asked for before code comes to them, so that a plain loop need not wait for each answer in turn.

The sandbox says what code will probably ask (`ExpectedQuery`); this decides how much of it is asked now. Code that then
comes to the same request takes the answer; one that it never comes to was asked in vain, which is counted
(`Spent.calls_in_vain`). The rules:

    nothing is asked unless the budget would pay for it, and for all that comes before it, at their largest
    a request that an earlier answer may prevent is asked only if not even with it one call in ten would be in vain,
    and so is any request once more than that was in vain
    as many calls are in flight as the run allows, less one for code itself; child runs are few

What was asked and answered is on record, as if code had asked it. Belongs to the event loop.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress

import anyio

from rlm_mcp.engine.budget import USUAL_COMPLETION_TOKENS, Ledger
from rlm_mcp.errors import BudgetExceeded, CallsStopped, RlmError, SubCallFailed
from rlm_mcp.models.base import Profile, bound_tokens
from rlm_mcp.repl.types import ExpectedQuery, StartCall

CHILDREN_AT_ONCE = 4
# One call of so many may be in vain.
CALLS_PER_CALL_IN_VAIN = 10
# Beside the prompt of a sub-call: the system message, the schema, markers.
_FIXED_PROMPT_TOKENS = 1_000

AskQuery = Callable[[ExpectedQuery], Awaitable[object]]


class QueryAnswer:
    """The answer to one request, for which several callers may wait."""

    def __init__(self) -> None:
        self._done = anyio.Event()
        self._value: object = None
        self._error: RlmError | None = None

    async def fill(self, answer: Awaitable[object]) -> None:
        """Waits for the answer or its failure, and keeps it."""
        try:
            self._value = await answer
        except RlmError as error:
            self._error = error
        except BaseException:  # cancellation too: the block that wants the reply is told
            self._error = CallsStopped("the call was cancelled")
            raise
        finally:
            self._done.set()

    async def value(self) -> object:
        """The answer, once it is there; raises its failure."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value

    async def was_asked(self) -> bool:
        """Whether, in the end, a model was asked: not if the call was refused by the budget, or stopped."""
        await self._done.wait()
        return not (isinstance(self._error, CallsStopped) or isinstance(_cause(self._error), BudgetExceeded))


class AheadCalls:
    """The calls asked ahead for one run at one depth. `ask` asks and records, `key` identifies a request."""

    def __init__(
        self,
        ledger: Ledger,
        profiles: Mapping[str, Profile],
        *,
        ask: AskQuery,
        key: Callable[[ExpectedQuery], str],
    ) -> None:
        """`profiles` are those of the models by name; the first is the default."""
        self._ledger, self._profiles, self._ask, self._key = ledger, profiles, ask, key
        self._start: StartCall | None = None
        self._expected: list[tuple[int, str, ExpectedQuery, int]] = []
        self._places: dict[str, int] = {}
        self._passed = -1
        self._answers: dict[str, QueryAnswer] = {}
        self._made: set[str] = set()
        self._in_flight = 0
        self._by_code: list[int] = []
        self._child_scopes: dict[anyio.CancelScope, None] = {}
        self._calls = 0
        self._children_ended = 0
        self._in_vain = 0

    def __repr__(self) -> str:
        return f"<AheadCalls {self._in_flight} in flight, {len(self._answers)} not used>"

    def expect(self, queries: Sequence[ExpectedQuery], start: StartCall) -> None:
        """Takes what the running block will probably ask, in its order; nothing at the end of the block."""
        self._start = start
        # Only what is certain has a key: the others are guesses, which may be many times as many.
        sizes: dict[int, int] = {}
        self._expected = [
            (place, self._key(query) if query.is_certain else "", query, self._size(query, sizes))
            for place, query in enumerate(queries)
        ]
        self._places = {key: place for place, key, query, _ in self._expected if query.is_certain}
        self._passed = -1
        if not queries:
            self._made.clear()
            self._in_vain = len(self._answers)
            for scope in list(self._child_scopes):
                scope.cancel()
        self._ask_more()

    def take(self, key: str, *texts: str | None) -> QueryAnswer | None:
        """The answer to a request that code has come to, if it was asked ahead. `texts` are those of its prompt."""
        self._calls += 1
        self._made.add(key)
        self._passed = max(self._passed, self._places.get(key, -1))
        answer = self._answers.pop(key, None)
        if answer is not None:
            self._ledger.count_in_vain(-1)
        with nullcontext() if answer is not None else self.by_code(*texts):
            self._ask_more()
        return answer

    @contextmanager
    def by_code(self, *texts: str | None) -> Iterator[None]:
        """Counts a call that code makes itself as in flight, which the ledger may not know of yet."""
        size = sum(bound_tokens(text) for text in texts if text)
        self._by_code.append(size)
        try:
            yield
        finally:
            self._by_code.remove(size)

    def count_child(self) -> None:
        """Counts a child run that has ended, whoever asked for it."""
        self._children_ended += 1

    def _ask_more(self) -> None:
        before, left = list[int](), list[tuple[int, str, ExpectedQuery, int]]()
        for number, (place, key, query, size) in enumerate(self._expected):
            if query.is_certain and not self._is_asked(key):
                if self._start is None or not self._has_room(query, size, before):
                    left += self._expected[number:]
                    break
                self._begin(key, query, self._start)
            elif not query.is_certain and place > self._passed:
                before.append(size)
                left.append((place, key, query, size))
        self._expected = left

    def _is_asked(self, key: str) -> bool:
        return key in self._made or key in self._answers

    def _begin(self, key: str, query: ExpectedQuery, start: StartCall) -> None:
        answer = self._answers[key] = QueryAnswer()
        self._in_flight += 1
        self._ledger.count_in_vain(1)
        start(lambda: self._run(key, query, answer))

    async def _run(self, key: str, query: ExpectedQuery, answer: QueryAnswer) -> None:
        try:
            with anyio.CancelScope() as scope, suppress(RlmError):
                if query.function == "rlm_query":
                    self._child_scopes[scope] = None
                await answer.fill(self._ask(query))
                query.answer.set_result(await answer.value())
        finally:
            self._in_flight -= 1
            self._child_scopes.pop(scope, None)
        if not await answer.was_asked() and self._answers.get(key) is answer:
            del self._answers[key]
            self._ledger.count_in_vain(-1)
        self._ask_more()

    # --- how much -----------------------------------------------------------------------------------------------

    def _size(self, query: ExpectedQuery, known: dict[int, int]) -> int:
        """The tokens of the texts of a request at most; `known` are those of texts by identity."""
        if self._ledger.limits.max_tokens is None and self._ledger.limits.max_usd is None:
            return 0
        texts = [text for name in ("prompt", "material") if isinstance(text := query.arguments.get(name), str)]
        for text in texts:
            if id(text) not in known:
                known[id(text)] = bound_tokens(text)
        return sum(known[id(text)] for text in texts)

    def _has_room(self, query: ExpectedQuery, size: int, before: list[int]) -> bool:
        most = CHILDREN_AT_ONCE if query.function == "rlm_query" else self._ledger.limits.concurrency
        return (
            self._in_flight < most - 1
            and len(self._answers) < most
            and not self._ledger.queue
            and self._may_be_in_vain(query)
            and self._is_affordable(
                query, [size] * (1 + self._in_flight) + [max(size, one) for one in self._others(before)]
            )
        )

    def _may_be_in_vain(self, query: ExpectedQuery) -> bool:
        if not query.is_conditional and self._in_vain * CALLS_PER_CALL_IN_VAIN <= self._calls:
            return True
        return (len(self._answers) + 1) * CALLS_PER_CALL_IN_VAIN <= self._calls

    def _others(self, before: list[int]) -> list[int]:
        """The sizes of the calls of code and of those that come before. What is not known of one is an answer."""
        longest = max((profile.max_output_tokens for profile in self._profiles.values()), default=0)
        unknown = min(USUAL_COMPLETION_TOKENS["sub"], longest)
        return self._by_code + [one + unknown if one else 0 for one in before]

    def _is_affordable(self, query: ExpectedQuery, sizes: list[int]) -> bool:
        """Whether calls of these sizes, with the longest answers, fit into what is left."""
        left = self._ledger.left()
        if query.function == "rlm_query":
            calls, tokens, usd = (len(sizes) * cost for cost in self._child_cost())
        else:
            calls, tokens, usd = self._costs(query.arguments.get("model"), sizes)
        return (
            (left.sub_calls is None or calls <= left.sub_calls)
            and (left.tokens is None or tokens <= left.tokens)
            and (left.usd is None or usd <= left.usd)
        )

    def _costs(self, model: object, sizes: list[int]) -> tuple[float, float, float]:
        profile = self._profiles.get(str(model or next(iter(self._profiles))), Profile())
        prompts = sum(sizes) + len(sizes) * _FIXED_PROMPT_TOKENS
        completions = len(sizes) * min(USUAL_COMPLETION_TOKENS["sub"], profile.max_output_tokens)
        return len(sizes), prompts + completions, profile.cost_usd(prompts, completions) or 0.0

    def _child_cost(self) -> tuple[float, float, float]:
        """Twice what the run has spent for each child so far, which includes all else that it has spent."""
        spent, each = self._ledger.spent(), 2 / max(1, self._children_ended)
        tokens = spent.prompt_tokens + spent.completion_tokens
        return (spent.sub_calls + spent.root_calls) * each, tokens * each, (spent.cost_usd or 0.0) * each


def _cause(error: RlmError | None) -> BaseException | None:
    return error.__cause__ if isinstance(error, SubCallFailed) else error
