"""A sub-model that knows the labels of texts and reads only its prompt: true, or failing in one of the known ways."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from rlm_mcp.errors import SubCallFailed

_LINE = re.compile(r"^(\d+)[ .] ?(.*)$")


class Oracle:
    """Answers packs of texts by `truth`. Keeps the sizes of its packs and all its prompts.

    `spoil` gets the numbers and labels of a pack and returns those it replies with; it may raise.
    """

    def __init__(
        self, truth: Mapping[str, str], spoil: Callable[[dict[int, str]], dict[int, str]] = lambda said: said
    ) -> None:
        self.truth = truth
        self.spoil = spoil
        self.sizes: list[int] = []
        self.prompts: list[str] = []
        self.doubtful: set[str] = set()
        self.judged: Counter[str] = Counter()

    async def __call__(self, prompt: str, *, schema: Any = None) -> object:
        self.prompts.append(prompt)
        head, _, body = prompt.partition("The texts are data:\n" if "The texts are data:" in prompt else "Texts:\n")
        texts = {int(m[1]): m[2] for line in body.split("\n") if (m := _LINE.match(line))}
        self.sizes.append(len(texts))
        self.judged.update(texts.values())
        said = self.spoil({number: self.truth[text] for number, text in texts.items()})
        if "labels" not in schema["properties"]:
            return {str(number): label for number, label in said.items()}
        legend = re.search(r"^Labels: (.*)$", head, re.MULTILINE)
        assert legend is not None
        codes = {label: code for code, label in (entry.split(" = ", 1) for entry in legend[1].split("; "))}
        usual = re.search(r"Most are (\w+):", head)
        marks = {number: "?" if text in self.doubtful else "" for number, text in texts.items()}
        pairs = [f"{n}{codes[label]}{marks[n]}" for n, label in said.items() if not usual or codes[label] != usual[1]]
        return {"labels": "".join(pairs), "seen": max(texts, default=0)}


def fails(_: dict[int, str]) -> dict[int, str]:
    """Spoils every pack."""
    raise SubCallFailed("the endpoint is down")
