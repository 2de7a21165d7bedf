"""Published long-context tasks, from the files of their authors, scored by the metrics of their papers.

    python -m benchmarks.published oolong|mrcr|s-niah|codeqa --data FILE [--limit 20] [--json] [--results FILE]

The data is not part of the project. FILE is JSON Lines or a JSON list; rows of a parquet file are converted with
`datasets.load_dataset(…).to_json(FILE)`. The model comes from the settings (RLM_MCP_BASE_URL, RLM_MCP_MODEL, …).

    oolong   oolongbench/oolong-synth. The text before the last colon of a reply is dropped, as its authors do; a number
             scores 0.75 to the power of its distance, a date by its value, anything else by equality.
    mrcr     openai/mrcr. The reply must begin with the random prefix, else it scores 0; then the ratio of difflib's
             SequenceMatcher to the expected text, both without the prefix.
    s-niah   RULER's generated files. The share of the expected strings in the reply, in any case.
    codeqa   LongBench-v2's data.json, rows of the domain "Code Repository Understanding". Right or wrong by the letter
             in "The correct answer is (X)".

`--results` appends a line per question with its run id and score, which `rlm-mcp runs export --scores` reads.
"""

import argparse
import ast
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

import anyio

import rlm_mcp
from rlm_mcp.errors import RlmError
from rlm_mcp.records.types import RunState

Row = Mapping[str, Any]
CODE_DOMAIN = "Code Repository Understanding"


class BadData(ValueError):
    """A file that is not in the format of its authors; the text is one sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One row of a published task. `score` judges a reply, from 0 to 1."""

    name: str
    context: str
    query: str
    score: Callable[[str], float]


# --- the tasks


def oolong(row: Row) -> Question:
    """A question of OOLONG-synth about labels that the context does not show."""
    kind, gold = str(row["answer_type"]), _gold_of_oolong(str(row["answer"]))
    return Question(
        name=str(row["id"]),
        context=str(row["context_window_text"]),
        query=str(row["question"]),
        score=lambda reply: score_oolong(reply, gold, kind),
    )


def mrcr(row: Row) -> Question:
    """A conversation; its last message asks for one of several alike replies."""
    messages = json.loads(row["prompt"]) if isinstance(row["prompt"], str) else row["prompt"]
    answer, prefix = str(row["answer"]), str(row["random_string_to_prepend"])
    *before, last = messages
    return Question(
        name=f"{row['n_needles']} needles, message {row['desired_msg_index']}",
        context="\n\n".join(f"{one['role']}: {one['content']}" for one in before),
        query=str(last["content"]),
        score=lambda reply: score_mrcr(reply, answer, prefix),
    )


def niah(row: Row) -> Question:
    """A text with a needle; RULER's template puts the question behind the text, in the last paragraph."""
    text, outputs = str(row["input"]), [str(one) for one in row["outputs"]]
    context, _, query = text.rstrip().rpartition("\n")
    return Question(
        name=str(row["index"]), context=context, query=query, score=lambda reply: score_niah(reply, outputs)
    )


def code_qa(row: Row) -> Question | None:
    """A question with four choices about a repository; None for the other domains of LongBench-v2."""
    if row["domain"] != CODE_DOMAIN:
        return None
    choices = "\n".join(f"({letter}) {row[f'choice_{letter}']}" for letter in "ABCD")
    asked = f'{row["question"]}\n{choices}\nEnd your answer with "The correct answer is (X)", X being the letter.'
    letter = str(row["answer"])
    return Question(
        name=str(row["_id"]), context=str(row["context"]), query=asked, score=lambda reply: score_code_qa(reply, letter)
    )


TASKS: Mapping[str, Callable[[Row], Question | None]] = {
    "oolong": oolong,
    "mrcr": mrcr,
    "s-niah": niah,
    "codeqa": code_qa,
}


# --- the metrics


def score_oolong(reply: str, gold: str | date, kind: str) -> float:
    """OOLONG-synth: 0.75 to the power of the distance of numbers, equality of anything else."""
    said = _answer_in(reply)
    if said == str(gold):
        return 1.0
    if said in {"more common", "less common", "same frequency"}:
        return float(said in str(gold))
    if kind == "ANSWER_TYPE.NUMERIC":
        numbers = [re.fullmatch(r"[+-]?\d{1,15}", text.strip()) for text in (said, str(gold))]
        return 0.75 ** abs(int(numbers[0][0]) - int(numbers[1][0])) if numbers[0] and numbers[1] else 0.0
    if kind == "ANSWER_TYPE.DATE" and isinstance(gold, date):
        return float(_date_of(said) == gold)
    return 0.0


def score_mrcr(reply: str, answer: str, prefix: str) -> float:
    """MRCR: 0 without the prefix, else how alike the texts behind it are."""
    if not reply.startswith(prefix):
        return 0.0
    return SequenceMatcher(None, reply.removeprefix(prefix), answer.removeprefix(prefix)).ratio()


def score_niah(reply: str, outputs: Sequence[str]) -> float:
    """RULER's string_match_all for one reply."""
    return sum(one.lower() in reply.lower() for one in outputs) / len(outputs)


def score_code_qa(reply: str, letter: str) -> float:
    """LongBench-v2: whether the letter is the right one; a reply without one is wrong."""
    plain = reply.replace("*", "")
    found = re.search(r"The correct answer is \(([A-D])\)", plain) or re.search(r"The correct answer is ([A-D])", plain)
    return float(found is not None and found[1] == letter)


def _gold_of_oolong(answer: str) -> str | date:
    if (day := re.search(r"datetime\.date\((\d+), (\d+), (\d+)\)", answer)) is not None:
        return date(*(int(part) for part in day.groups()))
    value = ast.literal_eval(answer)
    return str(value[0] if isinstance(value, list) else value)


def _answer_in(reply: str) -> str:
    """The answer in a reply, as the authors of OOLONG take it: what follows the last colon, without stars, brackets."""
    if ":" not in reply:
        return reply if len(reply) < 20 else reply.rsplit(maxsplit=1)[-1] if reply.split() else ""
    said = re.sub(r"[*\[\]]", "", reply.rsplit(":", 1)[1]).strip()
    if len(said) < 20:
        return said
    return next((one for one in ("more common", "less common", "same frequency") if one in said), said)


def _date_of(text: str) -> date | None:
    for form in ("%Y-%m-%d", "%b %d, %Y", "%B %d, %Y", "%m/%d/%Y", "%d %B %Y"):
        try:
            return datetime.strptime(text.strip(), form).date()  # noqa: DTZ007 # a day has no zone
        except ValueError:
            continue
    return None


# --- the files


def read_questions(name: str, path: Path) -> Iterator[Question]:
    """The questions of a task in a file. Raises BadData."""
    made = 0
    for number, row in enumerate(_rows(path), 1):
        try:
            question = TASKS[name](row)
        except (KeyError, TypeError, ValueError, SyntaxError) as error:
            missing = f"it lacks {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
            raise BadData(f"{path}, row {number}, is no row of {name} ({missing}): give the authors' file") from error
        if question is not None:
            made += 1
            yield question
    if not made:
        raise BadData(f"{path} holds no questions of {name}: give the authors' file")


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a JSON list, or of JSON Lines, which are read one by one."""
    try:
        with path.open(encoding="utf-8") as file:
            if file.read(1) == "[":
                file.seek(0)
                yield from json.load(file)
                return
            file.seek(0)
            yield from (json.loads(line) for line in file if line.strip())
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadData(f"{path} is neither JSON Lines nor a JSON list: convert it with `to_json` of datasets") from error


# --- the runs


async def answer(question: Question, mode: Literal["auto", "direct", "rlm"]) -> RunState:
    """The run that answers a question, by the configured model."""
    return await rlm_mcp.solve(question.query, {"context": question.context}, mode=mode)


def figures_of(name: str, rows: Sequence[Row]) -> list[dict[str, object]]:
    """The figures of the results, for a table."""
    measured = {
        "score": ("%", True, [100 * row["score"] for row in rows]),
        "tokens of a question": ("tokens", False, [row["tokens"] for row in rows]),
        "seconds of a question": ("s", False, [row["seconds"] for row in rows]),
    }
    if all(row["cost_usd"] is not None for row in rows):
        measured["dollars of a question"] = ("$", False, [row["cost_usd"] for row in rows])
    return [
        {
            "name": f"{name}: {what}",
            "unit": unit,
            "value": statistics.fmean(values),
            "low": min(values),
            "high": max(values),
            "n": len(values),
            "better": "higher" if higher else "lower",
            "contender": "rlm-mcp",
        }
        for what, (unit, higher, values) in measured.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Asks the questions one after the other and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=TASKS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=20, help="how many questions, from the first on (default: 20)")
    parser.add_argument("--mode", choices=("auto", "direct", "rlm"), default="rlm", help="direct is the baseline")
    parser.add_argument("--results", type=Path, help="append a line per question to this file")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON document")
    options = parser.parse_args(argv)
    rows: list[Row] = []
    try:
        for question, _ in zip(read_questions(options.name, options.data), range(options.limit), strict=False):
            rows.append(_ask(question, options))
    except (BadData, RlmError) as error:
        print(f"published: {error}", file=sys.stderr)
        return 1
    figures = figures_of(options.name, rows) if rows else []
    if options.json:
        print(json.dumps({"figures": figures, "notes": [f"mode {options.mode}, {options.data.name}"]}))
        return 0
    for one in figures:
        print(
            f"{one['name']:36} {one['value']:.4g} {one['unit']} ({one['low']:.4g} to {one['high']:.4g}, n={one['n']})"
        )
    return 0


def _ask(question: Question, options: argparse.Namespace) -> Row:
    state = anyio.run(answer, question, options.mode)
    said = state.answer if isinstance(state.answer, str) else json.dumps(state.answer) if state.answer else ""
    row = {
        "run_id": state.run_id,
        "scorer": options.name,
        "score": question.score(said),
        "question": question.name,
        "tokens": state.usage.prompt_tokens + state.usage.completion_tokens,
        "cost_usd": state.usage.cost_usd,
        "seconds": state.usage.seconds,
    }
    if options.results is not None:
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return row


if __name__ == "__main__":
    raise SystemExit(main())
