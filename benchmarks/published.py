"""Published long-context tasks, from the files of their authors, scored by the metrics of their papers.

    python -m benchmarks.published TASK --data FILE [--contexts FILE] [--only FIELD=VALUE …] [--limit 20] [--json]

The data is not part of the project. FILE is JSON Lines or a JSON list; rows of a parquet file are converted with
`datasets.load_dataset(…).to_json(FILE)`. The model comes from the settings (RLM_MCP_BASE_URL, RLM_MCP_MODEL, …).

    oolong          oolongbench/oolong-synth. The text before the last colon of a reply is dropped, as its authors do; a
                    number scores 0.75 to the power of its distance, a date by its value, anything else by equality. The
                    slice of the RLM paper: --only dataset=trec_coarse context_len=131072 --limit 50.
    oolong-pairs    mit-oasys/oolong-pairs, such as oolong-pairs-32768.json; --contexts is oolong-synth, whose window of
                    trec_coarse with this length is the context. F1 over the pairs, the lower id first.
    mrcr            openai/mrcr. The reply must begin with the random prefix, else it scores 0; then the ratio of
                    difflib's SequenceMatcher to the expected text, both without the prefix.
    s-niah          RULER's generated files. The share of the expected strings in the reply, in any case.
    codeqa          LongBench-v2's data.json, rows of the domain "Code Repository Understanding". Right or wrong by the
                    letter in "The correct answer is (X)".
    browsecomp-plus browsecomp_plus_decrypted.jsonl, which the authors' script writes; --contexts is their corpus
                    (docid, text, url). The context has 1,000 documents, as in the RLM paper: the evidence, gold and
                    negative documents of the question and others of the corpus, or the former alone without --contexts.
                    The configured model judges whether the final answer is the expected one, as the authors' judge.

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
from random import Random
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


Reader = Callable[[Row], Question | None]
Judge = Callable[[str], str]
"""Answers a question about a reply with yes or no."""
DOCUMENTS = 1_000


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


def oolong_pairs(data: Path, contexts: Path | None) -> Reader:
    """Questions for all pairs of users; every file is about one context, which its name tells by its length."""
    found = re.search(r"(\d+)\.jsonl?$", data.name)
    if found is None or contexts is None:
        raise BadData(
            "oolong-pairs needs --data oolong-pairs-LENGTH.json, and --contexts with the rows of oolong-synth"
        )
    windows = (
        str(row["context_window_text"])
        for row in _rows(contexts)
        if row["dataset"] == "trec_coarse" and int(row["context_len"]) == int(found[1])
    )
    context = next(windows, None)
    if context is None:
        raise BadData(f"{contexts} has no context of trec_coarse with the length {found[1]}: give the whole split")

    def read(row: Row) -> Question:
        gold = pairs_in("\n".join(row["answer"]))
        return Question(
            name=str(row["id"]),
            context=context,
            query=str(row["question"]),
            score=lambda reply: score_pairs(reply, gold),
        )

    return read


def browse_comp_plus(contexts: Path | None, judge: Judge) -> Reader:
    """Questions that need several of many documents, which stand in the context one after the other."""
    others = _sample(_rows(contexts), DOCUMENTS) if contexts is not None else []

    def read(row: Row) -> Question:
        query, answer = str(row["query"]), str(row["answer"])
        own = [one for field in ("gold_docs", "evidence_docs", "negative_docs") for one in row[field]]
        documents = {str(one["docid"]): str(one["text"]) for one in [*own, *others]}
        kept = list(documents.items())[: max(DOCUMENTS, len(own))]
        Random(f"browsecomp-plus {row['query_id']}").shuffle(kept)
        return Question(
            name=str(row["query_id"]),
            context="\n\n".join(f"[docid {name}]\n{text}" for name, text in kept),
            query=f"{query}\nAnswer from the documents. End with a line that begins with Exact Answer:",
            score=lambda reply: score_browse_comp(query, reply, answer, judge),
        )

    return read


def reader_of(name: str, data: Path, contexts: Path | None = None, judge: Judge = lambda _: "no") -> Reader:
    """The function that makes a question of a row of this task. Raises BadData where a file is missing."""
    match name:
        case "oolong-pairs":
            return oolong_pairs(data, contexts)
        case "browsecomp-plus":
            return browse_comp_plus(contexts, judge)
    return TASKS[name]


def _sample(rows: Iterator[Row], count: int) -> list[Row]:
    """So many rows of a stream, each with the same chance; always the same ones."""
    random, kept = Random("documents"), list[Row]()
    for number, row in enumerate(rows):
        if number < count:
            kept.append(row)
        elif (place := random.randrange(number + 1)) < count:
            kept[place] = row
    return kept


TASKS: Mapping[str, Reader] = {
    "oolong": oolong,
    "mrcr": mrcr,
    "s-niah": niah,
    "codeqa": code_qa,
}
"""Tasks whose rows hold all that is needed."""
NAMES = (*TASKS, "oolong-pairs", "browsecomp-plus")


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


def pairs_in(text: str) -> frozenset[tuple[int, int]]:
    """The pairs of ids in brackets in a text, the lower one first."""
    found = ((int(one), int(other)) for one, other in re.findall(r"[(\[]\s*(\d{1,12})\s*,\s*(\d{1,12})\s*[)\]]", text))
    return frozenset((min(pair), max(pair)) for pair in found)


def score_pairs(reply: str, gold: frozenset[tuple[int, int]]) -> float:
    """OOLONG-Pairs: F1 over the pairs; 1 if there are none and none is named."""
    said = pairs_in(reply)
    return 2 * len(said & gold) / (len(said) + len(gold)) if said or gold else 1.0


def score_browse_comp(query: str, reply: str, answer: str, judge: Judge) -> float:
    """BrowseComp-Plus: 1 if the final answer is the expected one, by its words or else by the judge."""
    final = reply.rsplit("Exact Answer:", 1)[-1].strip(" *\n")
    if " ".join(final.split()).casefold() == " ".join(answer.split()).casefold():
        return 1.0
    if not final:
        return 0.0
    asked = (
        f"Question: {query}\nExpected answer: {answer}\nReply: {reply}\n\nDoes the reply give the expected answer, in"
        " whatever words, as its final answer? Small differences of numbers are fine, everything else must agree."
        " Answer with yes or no."
    )
    return float(judge(asked).strip().strip("*").casefold().startswith("yes"))


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


def read_questions(
    name: str, path: Path, read: Reader | None = None, only: Mapping[str, str] | None = None
) -> Iterator[Question]:
    """The questions of a task in a file, of rows whose fields have the values of `only`. Raises BadData."""
    read, made = read or reader_of(name, path), 0
    for number, row in enumerate(_rows(path), 1):
        try:
            if any(str(row[field]) != value for field, value in (only or {}).items()):
                continue
            question = read(row)
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


async def judged(prompt: str) -> str:
    """The configured model's answer to a judge's question."""
    state = await rlm_mcp.solve(prompt, {"note": "Judge the reply in the question."}, mode="direct")
    return str(state.answer)


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
    parser.add_argument("name", choices=NAMES, metavar="TASK", help=", ".join(NAMES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--contexts", type=Path, help="the file that holds the contexts, where --data does not")
    parser.add_argument("--only", nargs="+", default=[], metavar="FIELD=VALUE", help="take only rows with these values")
    parser.add_argument("--limit", type=int, default=20, help="how many questions, from the first on (default: 20)")
    parser.add_argument("--mode", choices=("auto", "direct", "rlm"), default="rlm", help="direct is the baseline")
    parser.add_argument("--results", type=Path, help="append a line per question to this file")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON document")
    options = parser.parse_args(argv)
    rows: list[Row] = []
    try:
        only = dict(text.split("=", 1) if "=" in text else (text, "") for text in options.only)
        read = reader_of(options.name, options.data, options.contexts, lambda prompt: anyio.run(judged, prompt))
        questions = read_questions(options.name, options.data, read, only)
        for question, _ in zip(questions, range(options.limit), strict=False):
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
