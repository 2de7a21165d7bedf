"""Generated programs give the same with calls made ahead as without: output, value, exception, and calls in order."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wasm_runtime import CallRefused, ExpectedCall, Foresight, Limits, Runtime, Starts

LATE_SECONDS = 0.005
BEGINNING = "import json, random\nrandom.seed(5)\nout, last, n = [], '', 0\nfuns = []\n"

PROMPTS = st.sampled_from(
    ["f'p {i}'", "f'q {i} {last}'", "f'{random.randrange(3)} {i}'", "f'n{n}'", "'always'", "f'{len(out)}'"]
)
ASKED = PROMPTS.map(lambda prompt: f"ask(prompt={prompt})")
EXPRESSIONS = st.one_of(
    ASKED,
    ASKED.map(lambda ask: f"json.loads({ask})"),
    ASKED.map(lambda ask: f"[{ask} for i in range(i, i + 3)]"),
    ASKED.map(lambda ask: f"any({ask} == 'yes' for i in range(4))"),
    ASKED.map(lambda ask: f"next((i for i in range(4) if {ask} != 'no'), None)"),
    ASKED.map(lambda ask: f"'/'.join(map(lambda i: {ask}, range(2)))"),
)
SIMPLE = st.one_of(
    ASKED.map(lambda ask: f"last = {ask}"),
    EXPRESSIONS.map(lambda expression: f"out.append({expression})"),
    st.just("print(i, last)"),
    st.just("n += 1"),
    st.just("out.append(random.random())"),
    st.just("open('/tmp/log', 'a').write(last); print(len(open('/tmp/log').read()))"),
    ASKED.map(lambda ask: f"funs.append(lambda i=i: {ask})"),
    st.just("out.extend(fun() for fun in funs)"),
)
LEAVING = st.sampled_from(["break", "continue", "raise ValueError(last)"])


def indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def block(head: str, body: list[str], *after: str) -> list[str]:
    return [head, *indented(body), *after]


def compound(inner: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    return st.one_of(
        st.tuples(inner, LEAVING).map(
            lambda it: block("for i in range(5):", [*it[0], *block("if last == 'yes':", [it[1]])])
        ),
        inner.map(lambda body: block("for i in range(6):", body)),
        inner.map(lambda body: ["k = 0", *block("while k < 4:", [*body, "k += 1"])]),
        inner.map(lambda body: block("try:", body, "except (RuntimeError, ValueError) as error:", "    print(error)")),
        inner.map(lambda body: block("if last == 'yes':", body)),
        ASKED.map(
            lambda ask: [*block("def made():", [f"for i in range(4): yield {ask}"]), "for last in made(): print(last)"]
        ),
        inner.map(
            lambda body: [*block("def helped(i):", ["global last, n", *body, "return last"]), "out.append(helped(7))"]
        ),
    )


BODIES = st.recursive(
    st.lists(SIMPLE, min_size=1, max_size=3),
    lambda inner: st.lists(st.one_of(SIMPLE.map(lambda line: [line]), compound(inner)), min_size=1, max_size=3).map(
        lambda parts: [line for part in parts for line in part]
    ),
    max_leaves=4,
)


def answered(prompt: str) -> object:
    digest = hashlib.sha256(prompt.encode()).digest()[0] % 8
    if digest == 0:
        raise CallRefused(f"no answer to {prompt}")
    return ["", "yes", "no", "no", "3", '{"n": 1}', prompt, prompt[:1]][digest]


class Host:
    """Answers on threads, a little later than asked, so that copies report meanwhile; calls expected calls ahead."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.asked: list[str] = []
        self._threads = threads
        self._ahead: dict[str, Future[object]] = {}
        self._lock = threading.Lock()
        self._reported = threading.Event()

    def ask(self, prompt: str) -> Future[object]:
        self.asked.append(prompt)
        self._reported.clear()
        with self._lock:
            return self._ahead.pop(prompt, None) or self._threads.submit(self._answer_late, prompt)

    def _answer_late(self, prompt: str) -> object:
        self._reported.wait(LATE_SECONDS)
        return answered(prompt)

    def expect(self, calls: Sequence[ExpectedCall]) -> None:
        with self._lock:
            for call in calls:
                if call.is_certain:
                    future = self._ahead[str(call.kwargs["prompt"])] = self._threads.submit(
                        answered, str(call.kwargs["prompt"])
                    )
                    future.add_done_callback(partial(give, call.answer))
        self._reported.set()


def give(answer: Future[object], done: Future[object]) -> None:
    if not answer.done() and done.exception() is None:
        answer.set_result(done.result())


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


def outcome(runtime: Runtime, host: Host, code: str, *, foresees: bool) -> object:
    foresight = (
        Foresight(functions={"ask": frozenset({"prompt"})}, readers=frozenset({"read"}), expect=host.expect)
        if foresees
        else None
    )
    limits = Limits(cell_seconds=20)
    with runtime.session(limits=limits, calls={"ask": Starts(host.ask)}, foresight=foresight) as session:
        result = session.exec(code)
        left = session.exec("[out, last, n, random.random()]")
    error = result.error and (result.error.type, result.error.message, result.error.line)
    return result.stdout, result.value, error, left.value, host.asked


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(body=BODIES)
def test_a_program_gives_the_same_with_calls_made_ahead(runtime: Runtime, body: list[str]) -> None:
    code = BEGINNING + "\n".join(["i = 0", *block("for i in range(3):", body), *body])
    with ThreadPoolExecutor(2) as threads:
        ahead, plain = Host(threads), Host(threads)
        assert outcome(runtime, ahead, code, foresees=True) == outcome(runtime, plain, code, foresees=False)
