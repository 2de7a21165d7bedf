"""Score, tokens, dollars, seconds and calls of this engine, its rivals and simple baselines on generated tasks.

    python -m benchmarks.quality [--sizes 32K 1M] [--seeds 0 1] [--families …] [--contenders …] [--rivals PYTHON]
    python -m benchmarks.quality --lane local --gguf FILE --rivals PYTHON       a small model, served by llama.cpp
    python -m benchmarks.quality --lane hand --folder FOLDER                    you play the root model, see by_hand.py
    python -m benchmarks.quality --lane endpoint --base-url URL --model NAME [--sub-model NAME] [--key VARIABLE]
                                 [--price IN OUT] (--yes | --max-usd DOLLARS)   any OpenAI-compatible endpoint

PYTHON has `rlms` and `dspy[deno]`, and `xllamacpp` for the local model; what it lacks is left out, and named. FILE is
a model in GGUF, such as Qwen2.5-Coder-1.5B-Instruct Q4_K_M. In the lane `endpoint` the price is estimated before
anything is sent, from this project's table or from `--price`, for both models; --max-usd also stops what costs more.

In the scripted lane the root model follows a fixed program for each kind of question, the same for all engines, and the
sub-model sees nothing but its prompt. So it measures what an engine loses or mixes up between the two, what it sends
again, and what it costs, but not how good a root model is. A reader obeys orders in a text unless the prompt says that
the texts are data, as the programs of the engines do and the plain prompts of the baselines do not.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import product
from pathlib import Path

from benchmarks.figures import load, machine
from benchmarks.quality.cases import Case, score, write_case
from benchmarks.quality.contenders import CONTENDERS, RIVALS, Setup, lacks
from benchmarks.quality.families import FAMILIES
from benchmarks.quality.figures import Price, Result, dollars, figures_of
from benchmarks.quality.lanes import (
    Lane,
    by_hand,
    endpoint,
    estimated_usd,
    key_of,
    llama,
    prices_of,
    scripted,
)
from benchmarks.quality.serving import LATENCY

SIZES = (32 << 10, 1 << 20)
_UNITS = {"K": 10, "M": 20}


def measure(contender: str, case: Case, lane: Lane, *, seconds: float, rivals: str = "") -> Result:
    """One contender on one case, with an endpoint of its own."""
    with lane.open(contender) as opened:
        setup = Setup(
            base_url=opened.base_url,
            model=opened.model,
            sub_model=opened.sub_model,
            seconds=seconds,
            rivals=rivals,
        )
        began = time.monotonic()
        attempt = CONTENDERS[contender](case, setup)
        took = time.monotonic() - began
        usage = opened.usage()
    return Result(
        contender=contender,
        family=case.family,
        size=case.size,
        seed=case.seed,
        score=score(case.truth, attempt.answer),
        tokens=sum(map(sum, usage.tokens_of.values())),
        usd=dollars(usage.tokens_of, lane.prices),
        seconds=took,
        calls=usage.calls,
        ended=attempt.ended,
    )


def measure_all(options: argparse.Namespace, lane: Lane, contenders: Sequence[str]) -> Iterator[Result]:
    """All contenders on each case, one after the other; those of the results file are not measured again."""
    known = {(one.size, one.seed, one.family, one.contender): one for one in read_results(options.results)}
    for size, seed, family in product(options.sizes, options.seeds, options.families):
        keys = [(size, seed, family, contender) for contender in contenders]
        if all(key in known for key in keys):
            yield from (known[key] for key in keys)
            continue
        with tempfile.TemporaryDirectory() as folder:
            case = write_case(FAMILIES[family], size, seed, Path(folder))
            for key in keys:
                if (result := known.get(key)) is None:
                    result = measure(key[-1], case, lane, seconds=options.seconds, rivals=options.rivals)
                    _note(result, options.results)
                yield result


def _note(result: Result, file: Path | None) -> None:
    """Reports a result on stderr, and appends it to a file."""
    print(
        f"{result.size:>11,} {result.seed} {result.family:16} {result.contender:11} {result.score:6.1%}"
        f" {result.seconds:7.1f} s {result.calls:6} calls {result.tokens:>11,} tokens  {result.ended}",
        file=sys.stderr,
        flush=True,
    )
    if file is not None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(result)) + "\n")


def read_results(path: Path | None) -> list[Result]:
    """The results of earlier runs in a file."""
    if path is None or not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def size_of(text: str) -> int:
    """A size such as 32K, 16M or 1000000."""
    unit = text[-1:].upper()
    return int(text[:-1]) << _UNITS[unit] if unit in _UNITS else int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lane", choices=("scripted", "local", "hand", "endpoint"), default="scripted")
    parser.add_argument("--sizes", type=size_of, nargs="+", default=list(SIZES), help="of the contexts, in characters")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=None, help="default: all, by hand: own")
    parser.add_argument("--rivals", default=sys.executable, metavar="PYTHON", help="a Python that has the rivals")
    parser.add_argument("--seconds", type=float, default=1_800.0, help="time limit of a case (default: %(default)g)")
    parser.add_argument("--noise", type=int, default=5, help="misread items of a thousand, of the scripted sub-model")
    parser.add_argument("--latency", type=float, default=LATENCY, help="seconds of each scripted reply")
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="the model of the lane `local`")
    parser.add_argument("--folder", type=Path, help="where the root model is played by hand")
    parser.add_argument("--base-url")
    parser.add_argument("--model")
    parser.add_argument("--sub-model")
    parser.add_argument("--key", default="OPENAI_API_KEY", metavar="VARIABLE", help="default: %(default)s")
    parser.add_argument("--price", type=float, nargs=2, metavar=("IN", "OUT"), help="dollars per million tokens")
    parser.add_argument("--max-usd", type=float, help="stop once so many dollars are spent")
    parser.add_argument("--yes", action="store_true", help="spend what is estimated")
    parser.add_argument("--results", type=Path, metavar="FILE", help="JSON Lines file, continued if it is of this lane")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON document")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the figures; 2 if an option is missing or the price is not accepted."""
    options = _parser().parse_args(argv)
    begun = machine()
    wanted = options.contenders or (["own"] if options.lane == "hand" else list(CONTENDERS))
    missing = {name: module for name, module in RIVALS.items() if name in wanted and lacks(options.rivals, module)}
    contenders = [name for name in wanted if name not in missing]
    notes = [f"{name}: not installed in the Python of --rivals" for name in missing]
    with ExitStack() as stack:
        try:
            lane = _lane(options, contenders, stack)
        except ValueError as error:
            print(f"quality: {error}", file=sys.stderr)
            return 2
        results = list(measure_all(options, lane, contenders))
    notes = [f"{begun}, at the end {load()}", *notes, lane.note, *_failures(results)]
    figures = figures_of(results)
    if options.json:
        print(json.dumps({"figures": figures, "notes": notes}))
        return 0
    for one in figures:
        print(f"{one['contender']:11} {one['name']:34} {one['text']}")
    print(*notes, sep="\n")
    return 0


def _lane(options: argparse.Namespace, contenders: Sequence[str], stack: ExitStack) -> Lane:
    """The lane of the options. Raises ValueError with what is missing."""
    if options.lane == "scripted":
        return scripted(options.noise, options.latency)
    if options.lane == "hand":
        if options.folder is None:
            raise ValueError("the lane `hand` needs --folder, where requests and replies are files")
        return by_hand(options.folder, options.noise)
    if options.lane == "local":
        if options.gguf is None or lacks(options.rivals, "xllamacpp"):
            raise ValueError("the lane `local` needs --gguf FILE, and a Python of --rivals that has xllamacpp")
        url = stack.enter_context(llama(options.rivals, options.gguf))
        name = options.gguf.stem
        return endpoint(url, name, name, "none", {name: (0.0, 0.0)}, None)
    if not (options.base_url and options.model):
        raise ValueError("the lane `endpoint` needs --base-url and --model")
    sub_model = options.sub_model or options.model
    prices = _prices(options, sub_model)
    cases = len(options.seeds) * len(options.families)
    usd = sum(
        cases * estimated_usd(contender, size, prices[options.model], prices[sub_model])
        for size in options.sizes
        for contender in contenders
    )
    print(f"{cases * len(options.sizes) * len(contenders)} cases, about ${usd:.2f}", file=sys.stderr)
    if not options.yes and options.max_usd is None:
        raise ValueError(f"about ${usd:.2f} would be spent: pass --yes, or --max-usd with a limit")
    return endpoint(options.base_url, options.model, sub_model, key_of(options.key), prices, options.max_usd)


def _prices(options: argparse.Namespace, sub_model: str) -> dict[str, Price]:
    models = (options.model, sub_model)
    if options.price is not None:
        return dict.fromkeys(models, tuple(options.price))
    prices = prices_of(options.base_url, models)
    unknown = [name for name in models if name not in prices]
    if unknown:
        raise ValueError(f"no price is known of {unknown[0]} at {options.base_url}: pass --price IN OUT")
    return prices


def _failures(results: Sequence[Result]) -> list[str]:
    """A sentence for each contender and reason of empty answers, which are the same but for numbers."""
    failed: dict[tuple[str, str], list[Result]] = {}
    for one in results:
        if one.ended != "answered":
            failed.setdefault((one.contender, re.sub(r"\d+", "0", one.ended)), []).append(one)
    return [
        f"{one.contender}: {one.ended[:160]} ({1 + len(same)} cases, such as {one.family} {one.size:,} {one.seed})"
        for one, *same in failed.values()
    ]


if __name__ == "__main__":
    raise SystemExit(main())
