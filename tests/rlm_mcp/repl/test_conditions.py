"""Which sub-calls are said to depend on what an earlier answer says: copies of the REPL that run ahead find out."""

from collections.abc import Sequence

import anyio
import pytest

from rlm_mcp.repl.types import ExpectedQuery, StartCall
from tests.rlm_mcp.repl.opener import Opener, Sub

pytestmark = pytest.mark.anyio

PLAIN = {
    "a loop": "for i in range(8):\n    a = ask(i)\n    print(a)",
    "an answer is counted": "n = 0\nfor i in range(8):\n    if 'yes' in ask(i):\n        n += 1",
    "an answer ends the round after the call": "for i in range(8):\n    if 'yes' in ask(i): continue\n    print(i)",
    "a condition on the data": "for i in range(8):\n    if i % 9 < 8 and str(i).isdigit():\n        ask(i)",
    "the data end the loop": "for i in range(99):\n    if i >= 8: break\n    ask(i)",
    "a counter": "i = 0\nwhile i < 8:\n    ask(i)\n    i += 1",
    "the loop of an earlier stage": "hits = [i for i in '12' if ask(i)]\n[ask(i + k) for i in hits for k in 'abc']",
    "a retry": "def tried(i):\n    for _ in range(2):\n        return ask(i)\n[tried(i) for i in range(8)]",
    "a filter of its own": "def wanted(i):\n    return i < 9\nfor i in range(8):\n    if wanted(i): ask(i)",
    "parsing": "import json\nfor i in range(8):\n    try: json.loads(ask(i))\n    except ValueError: print(i)",
    "await": "for i in range(8):\n    await llm_query_async(f'number {i}')",
    "modules": "import json, re\nfor i in range(8):\n    re.sub('a', '', llm_query(f'number {json.dumps(i)}'))\n"
    "    re.sub('a', '', llm_query(re.sub('1', '2', f'more {i}')))",
    "rows": "for row in [{'i': i} for i in range(8)]:\n    row['said'] = ask(row['i'])",
    "a batch": "for i in range(8):\n    llm_query_batched([f'number {i}', f'letter {i}'])",
}

CONDITIONAL = {
    "break": "for i in range(8):\n    if 'yes' in ask(i): break",
    "break by a name": "for i in range(8):\n    a = ask(i)\n    found = a.strip() == 'yes'\n    if found: break",
    "break by a list": "out = []\nfor i in range(8):\n    out.append(ask(i))\n    if len(set(out)) > 4: break",
    "return": "def first():\n    for i in range(8):\n        if ask(i) == 'yes': return i\nfirst()",
    "raise in a helper": "def tried(i):\n    if ask(i) == 'x': raise ValueError(i)\n[tried(i) for i in range(8)]",
    "a flag": "done, i = False, 0\nwhile not done and i < 8:\n    done = ask(i) == 'yes'\n    i += 1",
    "any": "any(ask(i) == 'yes' for i in range(8))",
    "next": "next((i for i in range(8) if ask(i) == 'yes'), None)",
    "under an answer": "for i in range(8):\n    if 'answer' in ask(i):\n        ask(i + 9)",
    "after and": "for i in range(8):\n    ask(i) and ask(i + 9)",
    "a filter": "[ask(i + 9) for i in range(8) if 'answer' in ask(i)]",
    "continue before it": "for i in range(8):\n    if 'yes' in ask(i): continue\n    ask(i + 9)",
    "an exception": "for i in range(8):\n    try: ask(i)\n    except RuntimeError: break",
    "an assertion": "for i in range(8):\n    assert ask(i) != 'yes'",
    "a generator's consumer": "for a in (ask(i) for i in range(8)):\n    if a == 'yes': break",
    "recursion": "def down(i):\n    return ask(i) if i == 7 or ask(i) == 'yes' else down(i + 1)\ndown(0)",
}
CONDITIONAL |= {
    "a search of a generator": "'yes' in (ask(i) for i in range(8))",
    "a flag of a helper": "end = ''\ndef note(i):\n    global end\n    end = ask(i)\ni = 0\n"
    "while end != 'yes' and i < 8:\n    note(i)\n    i += 1",
    "a set of a helper": "seen = set()\ndef note(i):\n    seen.add(ask(i))\nfor i in range(8):\n"
    "    note(i)\n    if len(seen) > 20: break",
    "a prompt with what the guesses agree on": "state = 0\nfor i in range(8):\n"
    "    a = ask(f'{i} {state}')\n    state = len(a) > 5",
    "rows with two stages": "for row in [{'i': i} for i in range(8)]:\n    row['long'] = len(ask(row['i'])) > 5\n"
    "    ask((row['i'], row['long']))",
    "a key of a dict": "by = {}\nfor i in range(8):\n    by[ask(i)] = i\n    if len(by) > 20: break",
    "what is noted by a helper": "seen = {}\ndef note(a):\n    seen[a] = 1\nfor i in range(8):\n"
    "    note(ask(i))\n    if len(seen) > 20: break",
    "a list that is cleared": "todo = list(range(8))\nwhile todo:\n    if ask(todo.pop(0)) == 'yes': todo.clear()",
    "a list of the function around": "def run():\n    stop = []\n    def one(i):\n"
    "        if ask(i) == 'yes': stop.append(i)\n    for i in range(8):\n        if stop: break\n        one(i)\nrun()",
    "an object": "class Asking:\n    done = False\n    def step(self, i):\n        self.done = ask(i) == 'yes'\n"
    "one = Asking()\nfor i in range(8):\n    if one.done: break\n    one.step(i)",
    "a prompt of a helper": "state = 0\ndef step(i):\n    global state\n    state = len(ask(f'{i} {state}')) > 5\n"
    "for i in range(8): step(i)",
}

ASK = "def ask(i):\n    return llm_query(f'number {i}')\n"


class Watching(Sub):
    """Answers two calls, and the others once it was told what to expect."""

    def __init__(self) -> None:
        super().__init__()
        self.expected: list[ExpectedQuery] = []
        self._told = anyio.Event()

    async def llm_query(self, prompt: str, **_: object) -> object:
        self.prompts.append(prompt)
        if len(self.prompts) > 2:
            with anyio.move_on_after(5):
                await self._told.wait()
        return f"answer to {prompt}"

    def expect(self, queries: Sequence[ExpectedQuery], start: StartCall) -> None:
        self.expected = self.expected or list(queries)
        self._told.set()


async def expected_of(opened: Opener, code: str) -> list[ExpectedQuery]:
    sub = Watching()
    repl = await opened.text(sub=sub)
    await repl.run(ASK)
    await repl.run(code)
    return sub.expected


async def test_calls_that_will_be_made_whatever_the_answers_are_not_conditional(opened: Opener) -> None:
    expected = {form: await expected_of(opened, code) for form, code in PLAIN.items()}
    assert {form: len(queries) >= 4 for form, queries in expected.items()} == dict.fromkeys(PLAIN, True)
    conditional = [form for form, queries in expected.items() if any(query.is_conditional for query in queries)]
    assert conditional == []


async def test_calls_that_an_answer_may_prevent_are_conditional(opened: Opener) -> None:
    expected = {form: await expected_of(opened, code) for form, code in CONDITIONAL.items()}
    plain = [form for form, queries in expected.items() if not any(query.is_conditional for query in queries)]
    assert plain == []


async def test_a_definition_of_an_earlier_block_is_looked_up_too(opened: Opener) -> None:
    sub = Watching()
    repl = await opened.text(sub=sub)
    await repl.run(ASK + "def first(numbers):\n    for i in numbers:\n        if ask(i) == 'yes': return i")
    await repl.run("first(range(8))")
    assert [query.is_conditional for query in sub.expected] == [True] * 5
