"""Comparison of this engine, `rlms` and one direct call with the same model, tasks and server.

    python -m benchmarks.model_comparison --base-url http://127.0.0.1:8080/v1 --model NAME --seeds 11 12 \\
        [--contenders own direct rlms] [--rlms-python VENV/bin/python] [--results FILE.jsonl]

Nothing is downloaded: the model must be served, and `--rlms-python` must have rlms installed. Without `--development`
the held-out tasks are used. Results are appended to the file, one line a task; tasks that it already contains are
skipped. This engine runs as shipped, with its own prompts and its router free to choose. `rlms` runs with its defaults
except for the limits on turns, time and reply length. The direct call gets the text, the question and
"Reply with the answer only".
"""

import argparse
import json
import statistics
import subprocess
import time
import urllib.error
import urllib.request
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio

import rlm_mcp
from benchmarks.rivals import driver
from benchmarks.tasks.scoring import is_right
from benchmarks.tasks.sets import HELD_OUT_SEEDS, development_tasks, held_out_tasks, unseen_tasks
from benchmarks.tasks.types import Task
from rlm_mcp.settings import load_settings

TURNS = 8
REPLY_TOKENS = 1_024
_GRACE = 30.0  # seconds: rlms checks its clock only between turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The endpoint, the model and the time limit of a task."""

    base_url: str
    model: str
    seconds: float
    rlms_python: str
    data_dir: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One answer of a contender. `ended` gives the reason of an empty answer; `run` identifies its transcript."""

    answer: str | None
    ended: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    run: str = ""
    doubt: str = ""
    """what this engine says against its own answer"""


Contender = Callable[[Task, Setup], Attempt]


def own(task: Task, setup: Setup) -> Attempt:
    """This project, as `rlm_mcp.solve` runs it."""
    flags: dict[str, object] = {"base_url": setup.base_url, "model": setup.model, "sub_call_cache": False}
    flags["data_dir"] = setup.data_dir

    async def run() -> Attempt:
        state = await rlm_mcp.solve(
            task.question,
            {f"text_{zlib.crc32(task.context.encode()):08x}": task.context},
            max_iterations=TURNS,
            max_seconds=setup.seconds,
            settings=load_settings(flags),
        )
        return Attempt(
            answer=None if state.answer is None else str(state.answer),
            ended=f"{state.stopped_by}, {state.mode}",
            prompt_tokens=state.usage.prompt_tokens,
            completion_tokens=state.usage.completion_tokens,
            run=state.run_id,
            doubt=state.message,
        )

    return anyio.run(run)


def direct(task: Task, setup: Setup) -> Attempt:
    """One call with the whole text."""
    content = f"{task.context}\n\nQuestion: {task.question}\nReply with the answer only."
    body = {
        "model": setup.model,
        "temperature": 0,
        "max_tokens": REPLY_TOKENS,
        "messages": [{"role": "user", "content": content}],
    }
    request = urllib.request.Request(  # noqa: S310 # the address is the user's own
        f"{setup.base_url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=setup.seconds) as reply:  # noqa: S310 # the address is the user's own
            completion = json.load(reply)
    except urllib.error.HTTPError as error:
        return Attempt(answer=None, ended=f"refused with {error.code}: {error.read(120).decode(errors='replace')}")
    except TimeoutError:
        return Attempt(answer=None, ended="seconds")
    usage = completion["usage"]
    return Attempt(
        answer=completion["choices"][0]["message"]["content"],
        ended="answered",
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
    )


def rlms(task: Task, setup: Setup) -> Attempt:
    """alexzhang13/rlm, in a separate process."""
    request = {
        "model": setup.model,
        "base_url": setup.base_url,
        "question": task.question,
        "context": task.context,
        "turns": TURNS,
        "seconds": setup.seconds,
        "reply_tokens": REPLY_TOKENS,
    }
    command, environ = driver(setup.rlms_python, "rlms")
    try:
        done = subprocess.run(  # noqa: S603 # the interpreter is the user's choice
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=setup.seconds + _GRACE,
            check=False,
            env=environ,
        )
    except subprocess.TimeoutExpired:
        return Attempt(answer=None, ended="killed")
    if done.returncode:
        return Attempt(answer=None, ended="failed: " + done.stderr.strip().rpartition("\n")[2][:200])
    result = json.loads(done.stdout)
    return Attempt(
        answer=result["answer"],
        ended=result["ended"],
        prompt_tokens=result.get("prompt_tokens"),
        completion_tokens=result.get("completion_tokens"),
        run=json.dumps(result["trace"], default=str) if setup.data_dir is not None else "",
    )


CONTENDERS: Mapping[str, Contender] = {"own": own, "direct": direct, "rlms": rlms}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Correct answers by kind and median cost of a task, for each contender."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    lines = [
        "| | " + " | ".join(kinds) + " | all | seconds | tokens in | tokens out |",
        "|---" * (len(kinds) + 5) + "|",
    ]
    by_contender: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_contender[row["contender"]].append(row)
    for contender, own_rows in by_contender.items():
        cells = [_share([row for row in own_rows if row["kind"] == kind]) for kind in kinds] + [_share(own_rows)]
        cells += [f"{statistics.median(row['seconds'] for row in own_rows):.0f}"]
        cells += [_median(own_rows, "prompt_tokens"), _median(own_rows, "completion_tokens")]
        lines.append(f"| {contender} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def doubts_told(rows: Sequence[Mapping[str, Any]]) -> str:
    """How often this engine told a doubt about its answers, wrong and right ones."""
    answered = [row for row in rows if row["contender"] == "own" and row["answer"] is not None]
    wrong = [bool(row["doubt"]) for row in answered if not row["right"]]
    right = [bool(row["doubt"]) for row in answered if row["right"]]
    return (
        f"own: doubts told about {sum(wrong)} of {len(wrong)} wrong answers and {sum(right)} of {len(right)} right ones"
    )


def _share(rows: Sequence[Mapping[str, Any]]) -> str:
    return f"{sum(row['right'] for row in rows)} of {len(rows)}"


def _median(rows: Sequence[Mapping[str, Any]], field: str) -> str:
    known = [row[field] for row in rows if row[field] is not None]
    return f"{statistics.median(known):,.0f}" if known else "?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(HELD_OUT_SEEDS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=["own", "direct"])
    parser.add_argument("--tasks", default="", help="only tasks whose name contains this")
    parser.add_argument("--development", action="store_true", help="use the templates whose runs may be inspected")
    parser.add_argument("--unseen", action="store_true", help="use the templates that are newer than the rules")
    parser.add_argument("--seconds", type=float, default=240.0, help="time limit of one task")
    parser.add_argument("--rlms-python", default="python", help="an interpreter that has rlms 0.1.3")
    parser.add_argument("--results", type=Path, help="JSON Lines file; an existing one is continued")
    parser.add_argument("--data-dir", type=Path, help="keep the runs here, for inspection")
    options = parser.parse_args()
    setup = Setup(
        base_url=options.base_url,
        model=options.model,
        seconds=options.seconds,
        rlms_python=options.rlms_python,
        data_dir=options.data_dir,
    )
    make = development_tasks if options.development else unseen_tasks if options.unseen else held_out_tasks
    rows = _read_results(options.results)
    done = {(row["contender"], row["seed"], row["task"]) for row in rows}
    for contender in options.contenders:
        for seed in options.seeds:
            for task in make(seed):
                if options.tasks in task.name and (contender, seed, task.name) not in done:
                    rows.append(_run_task(contender, seed, task, setup, options.results))
    print(table(rows))
    print(doubts_told(rows))


def _read_results(results: Path | None) -> list[dict[str, Any]]:
    if results is None or not results.exists():
        return []
    return [json.loads(line) for line in results.read_text("utf-8").splitlines()]


def _run_task(contender: str, seed: int, task: Task, setup: Setup, results: Path | None) -> dict[str, Any]:
    began = time.monotonic()
    attempt = CONTENDERS[contender](task, setup)
    right = is_right(task, attempt.answer)
    row = {
        "contender": contender,
        "seed": seed,
        "task": task.name,
        "kind": task.kind,
        "right": right,
        **asdict(attempt),
    }
    row |= {"seconds": round(time.monotonic() - began, 1), "expected": task.answer}
    if results is not None:
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    shortened = " ".join(str(attempt.answer).split())[:60]
    print(
        f"{contender} {seed} {task.name}: {'right' if right else 'wrong'} ({shortened}) {row['seconds']:.0f} s",
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
