"""Finding out which calls a cell will make, while it waits: what is found, and that the cell does not notice."""

import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from wasm_runtime import ExpectedCall, Foresight, Limits, Runtime, Session, Starts
from wasm_runtime.channel import call_key
from wasm_runtime.foresight import MADE_AT_MOST, CellForesight, Rehearsal, unlike

CELLS = {
    "for": "out = []\nfor i in range(8):\n    out.append(ask(prompt=f'q{i}'))\nout",
    "comprehension": "[ask(prompt=f'q{i}') for i in range(8)]",
    "helper": "def helped(i):\n    return ask(prompt=f'q{i}')\n[helped(i) for i in range(8)]",
    "while": "i, out = 0, []\nwhile i < 8:\n    out.append(ask(prompt=f'q{i}'))\n    i += 1\nout",
    "nested": "[ask(prompt=f'q{4 * i + j}') for i in range(2) for j in range(4)]",
    "generator": "def made():\n    for i in range(8):\n        yield ask(prompt=f'q{i}')\nlist(made())",
    "map": "list(map(lambda i: ask(prompt=f'q{i}'), range(8)))",
    "iterator": "numbers = iter(range(8))\nout = []\nfor i in numbers:\n    out.append(ask(prompt=f'q{i}'))\nout",
    "endless": "from itertools import *\n[ask(prompt=f'q{i}') for i in takewhile(lambda i: i < 8, count())]",
    "recursion": "def down(i):\n    return [ask(prompt=f'q{i}'), *(down(i + 1) if i < 7 else [])]\ndown(0)",
    "await": "import host\n[await host.call_async('ask', prompt=f'q{i}') for i in range(8)]",
    "try": "out = []\nfor i in range(8):\n    try: out += [ask(prompt=f'q{i}')]\n    finally: pass\nout",
}


class Host:
    """Answers calls on threads, from the third on only once a rehearsal has been reported."""

    def __init__(self, answer: Callable[[str], object], *, seconds: float = 5) -> None:
        self.asked: list[str] = []
        self.reports: list[list[tuple[str, bool]]] = []
        self._seconds = seconds
        self._answer = answer
        self._reported = threading.Event()
        self._threads = ThreadPoolExecutor(4)
        self._ahead: dict[str, Future[object]] = {}

    def ask(self, prompt: str) -> Future[object]:
        self.asked.append(prompt)
        return self._ahead.get(prompt) or self._threads.submit(self._answered, prompt, len(self.asked) > 2)

    def _answered(self, prompt: str, is_late: bool) -> object:
        if is_late:
            self._reported.wait(self._seconds)
        return self._answer(prompt)

    def expect(self, calls: Sequence[ExpectedCall]) -> None:
        self.reports.append([(str(call.kwargs["prompt"]), call.is_certain) for call in calls])
        for call in calls:
            if call.is_certain:
                prompt = str(call.kwargs["prompt"])
                self._ahead.setdefault(prompt, self._threads.submit(self._answered, prompt, is_late=False))
                self._ahead[prompt].add_done_callback(partial(give, call.answer))
        self._reported.set()

    def certain(self) -> list[str]:
        return [prompt for prompt, is_certain in self.reports[0] if is_certain]


def give(answer: Future[object], done: Future[object]) -> None:
    if not answer.done():
        answer.set_result(done.result())


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


def session_of(runtime: Runtime, host: Host, *, foresees: bool = True) -> Session:
    foresight = Foresight(functions={"ask": frozenset({"prompt"})}, readers=frozenset({"read"}), expect=host.expect)
    calls: dict[str, Callable[..., object]] = {"ask": Starts(host.ask), "read": lambda i: f"line {i}"}
    return runtime.session(limits=Limits(cell_seconds=20), calls=calls, foresight=foresight if foresees else None)


@pytest.mark.parametrize("form", CELLS)
def test_what_a_loop_will_ask_is_known_after_two_answers(runtime: Runtime, form: str) -> None:
    host = Host(str.upper)
    with session_of(runtime, host) as session:
        result = session.exec(CELLS[form])
    assert (result.error, result.value) == (None, repr([f"Q{i}" for i in range(8)]))
    assert host.certain() == [f"q{i}" for i in range(3, 8)]
    assert host.asked == [f"q{i}" for i in range(8)]
    assert host.reports[-1] == []


@pytest.mark.parametrize("answer", [lambda prompt: prompt[-9:], lambda _: "the same"], ids=["various", "alike"])
def test_prompts_that_hold_the_last_answer_are_never_certain(runtime: Runtime, answer: Callable[[str], object]) -> None:
    host = Host(answer)
    with session_of(runtime, host) as session:
        session.exec("notes = ''\nfor i in range(12):\n    notes = ask(prompt=f'{notes} and {i}')")
    assert not any(is_certain for report in host.reports for _, is_certain in report)
    assert len(host.asked) == 12


def test_what_depends_on_an_answer_is_found_once_that_has_come(runtime: Runtime) -> None:
    found = threading.Event()

    def answer(prompt: str) -> object:
        if any(("Q19?", True) in report for report in host.reports):
            found.set()
        if "?" in prompt:
            found.wait(0.05)  # the cell goes on whether it is found or not
        return prompt.upper()

    host = Host(answer)
    with session_of(runtime, host) as session:
        session.exec("for i in range(20):\n    ask(prompt=ask(prompt=f'q{i}') + '?')")
    assert host.certain() == [f"q{i}" for i in range(2, 20)]
    assert found.is_set()
    assert [] not in host.reports[:-1]  # it stands for the end of the cell


@pytest.mark.parametrize("page_map", [None, False])
def test_the_cell_is_rehearsed_from_its_beginning_and_does_not_notice(page_map: bool | None) -> None:
    cell = """
import os, random
names.append('more')
with open('/tmp/kept', 'a') as file:
    file.write('second ')
os.remove('/tmp/gone')
os.chdir('/tmp')
out = []
for i in range(8):
    out.append((ask(prompt=f'{random.randrange(1000)} {open("kept").read()}{len(names)} {i}'), random.random()))
    names.append(i)
    print(i, os.listdir('/tmp'))
"""
    host, plain = Host(str.upper), Host(str.upper, seconds=0)
    results = []
    with Runtime(page_map=page_map) as runtime:
        for one in (host, plain):
            with session_of(runtime, one, foresees=one is host) as session:
                session.exec("names = ['one']\nlarge = bytearray(6 << 20)\nimport random\nrandom.seed(3)")
                session.exec("open('/tmp/kept', 'w').write('first '); open('/tmp/gone', 'w').close()")
                result = session.exec(cell)
                results.append((result.stdout, result.error, one.asked, session.exec("out, names, large[-1]").value))
    assert results[0] == results[1]
    assert host.certain() == host.asked[3:]


def test_a_cell_with_other_host_calls_and_sleeps_is_rehearsed_too(runtime: Runtime) -> None:
    host = Host(str.upper)
    with session_of(runtime, host) as session:
        session.exec("import time\nfor i in range(8):\n    ask(prompt=read(i))\n    time.sleep(0.001)")
    assert host.certain() == [f"line {i}" for i in range(3, 8)]


def test_what_the_system_makes_random_is_not_certain(runtime: Runtime) -> None:
    host = Host(str.upper, seconds=0.02)  # nothing is reported: no answer is known in the copies
    with session_of(runtime, host) as session:
        session.exec("import os\nfor i in range(8):\n    ask(prompt=os.urandom(8).hex())")
    assert not any(is_certain for report in host.reports for _, is_certain in report)


@pytest.mark.parametrize(
    "loop",
    [
        "for i in range(8): ask(prompt=f'{i} {time.time():.0f}')",
        "for i in range(8): ask(prompt=f'{i} {time.monotonic() - begin:.0f}')",
        "i = 0\nwhile time.time() - begun < 20 and i < 8:\n    ask(prompt=f'q{i}')\n    i += 1",
    ],
)
def test_what_a_clock_says_is_not_certain(runtime: Runtime, loop: str) -> None:
    host = Host(str.upper)
    with session_of(runtime, host) as session:
        assert session.exec("import time\nbegin, begun = time.monotonic(), time.time()\n" + loop).error is None
    assert not any(is_certain for report in host.reports for _, is_certain in report)


def test_the_date_is_certain(runtime: Runtime) -> None:
    host = Host(str.upper)
    with session_of(runtime, host) as session:
        session.exec("import datetime\nfor i in range(8): ask(prompt=f'{datetime.date.today().year} {i}')")
    assert len(host.certain()) == 5


def test_a_guest_that_tells_ever_new_places_fills_no_memory(runtime: Runtime) -> None:
    foresight = Foresight(functions={"ask": frozenset({"prompt"})}, readers=frozenset(), expect=lambda _: None)
    known = {call_key("ask", [], {"prompt": "q"}): "Q"}
    with runtime.session() as copy:
        rehearsal = Rehearsal(foresight, known, guesses_otherwise=False, copy=copy)
        tracemalloc.start()
        for number in range(4_000):
            rehearsal.answer("ask", [], {"prompt": "q"}, {"place": f"{number} {'x' * 10_000}"})
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert held < 1 << 20


def test_a_cell_of_very_many_calls_has_nothing_kept_and_nothing_foreseen_any_more() -> None:
    memory = Counted()
    foresight = Foresight(functions={"ask": frozenset()}, readers=frozenset(), expect=lambda _: None)
    cell = CellForesight(foresight, ThreadPoolExecutor, lambda _: iter(()), memory)
    answers = [cell.made("ask", [number], {}) for number in range(MADE_AT_MOST)]
    for answer in answers:
        assert answer is not None
        answer.kept = b'{"refused":"no"}'
    cell.made("ask", ["one more"], {})
    assert cell.made("ask", ["and another"], {}) is None
    assert memory.reserved == 0
    cell.end_cell()
    assert cell.made("ask", ["in the next cell"], {}) is not None


class Counted:
    """Memory without a limit, of which a test sees how much is reserved."""

    reserved = 0

    def reserve(self, n: int) -> bool:
        self.reserved += n
        return True

    def release(self, n: int) -> None:
        self.reserved -= n


def test_a_failed_call_fails_in_the_copies_too(runtime: Runtime) -> None:
    def refusing(prompt: str) -> object:
        if prompt == "q1":
            raise ValueError(prompt)
        return prompt

    host = Host(refusing)
    cell = "for i in range(8):\n    try: ask(prompt=f'q{i}')\n    except RuntimeError: ask(prompt='again')"
    with session_of(runtime, host) as session:
        session.exec(cell)
    assert host.asked == ["q0", "q1", "again", *(f"q{i}" for i in range(2, 8))]
    assert host.certain() == [f"q{i}" for i in range(2, 8)]


def test_copies_that_never_end_are_stopped_with_the_cell() -> None:
    host = Host(str.upper, seconds=0)
    cell = "for i in range(9):\n    answer = ask(prompt=f'q{i}')\n    while answer != f'Q{i}': pass\nanswer"
    with Runtime() as runtime, session_of(runtime, host) as session:
        assert session.exec(cell).value == "'Q8'"
    assert repr(runtime).startswith("<Runtime closed")  # it waits for its sessions, copies included


def test_another_answer_of_the_same_shape() -> None:
    answers: list[object] = [True, 3, "yes", '{"n": [1, "a"]}', "7", {"label": "spam", "sure": None}, "[]"]
    assert [unlike(answer) for answer in answers] == [
        False,
        4,
        "yes (or not)",
        '{"n": [2, "a (or not)"]}',
        "8",
        {"label": "spam (or not)", "sure": None},
        "[] (or not)",
    ]
