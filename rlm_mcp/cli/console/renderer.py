"""Renders the view model of a run for rich: each note once, and what is going on in a few lines at the bottom.

Pure: the same view at the same time, width and height gives the same lines. Lines are never wider than the terminal and
carry no padding, so that they can be counted and cleared after the terminal was made narrower. No text is interpreted
as rich's markup.
"""

from collections.abc import Iterable, Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.syntax import Syntax
from rich.text import Text

from rlm_mcp.cli.console.excerpt import Excerpt, excerpt, one_line
from rlm_mcp.cli.console.view_model import (
    CODE_LINES,
    BlockNote,
    Note,
    ResumeNote,
    RouteNote,
    RunIntro,
    RunView,
    TurnNote,
)
from rlm_mcp.records.events import SubAsked
from rlm_mcp.records.fold import OpenRun
from rlm_mcp.redact import ellipsize

CODE_THEME = "ansi_dark"
"""A theme of the terminal's own sixteen colours."""

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SPINNER_STEPS = 8
"""per second"""

BAR_CHARS = 24
NARROW = 60
MOST_WAITING = 4
MOST_LEVELS = 6
LEAST_HEIGHT = 6
MOST_ROWS = 3
"""of one long line of an output"""

DOING = {"starting": "begins its turn", "asking": "asks {model}", "running": "runs its code"}


class Hanging:
    """A text after a label, wrapped below its own beginning into at most `rows` rows."""

    def __init__(self, label: str | tuple[str, str] | Text, text: str | Text, *, rows: int = MOST_ROWS) -> None:
        self._label = label if isinstance(label, Text) else Text.assemble(label)
        self._text = text if isinstance(text, Text) else Text(text)
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        indent = self._label.cell_len
        rows = self._text.wrap(console, max(options.max_width - indent, 8), overflow="fold")
        for number, row in enumerate(rows[: self._rows]):
            row.rstrip()
            if number == self._rows - 1 < len(rows) - 1:
                row.right_crop(1)
                row.append("…")
            yield _line(self._label if number == 0 else " " * indent, row)


def render_note(note: Note, *, width: int) -> RenderableType:
    """The lines of one note."""
    match note:
        case RunIntro():
            return Group(*_begun(note))
        case RouteNote():
            return Hanging("", Text(note.reason, "dim"))
        case TurnNote():
            return Group(*_turned(note))
        case BlockNote():
            return Group(*_ran(note, width))
        case ResumeNote():
            return _line((f"resumed; {_count_of(note.turns, 'turn')} on record", "dim"))


def render_present(view: RunView, now: float, *, width: int, height: int, stopping: bool = False) -> Group:
    """The present work, in at most `height` lines."""
    status = [_line((line, "dim")) for line in _packed(_status(view, now), width)]
    if stopping:
        hint = _line(("stopping, keeps what it has … Ctrl-C again ends at once", "yellow"))
    else:
        hint = _line(("Ctrl-C stops and keeps what it has", "dim"))
    room = max(height, LEAST_HEIGHT) - len(status) - 1
    open_runs = sorted(view.fold.open_runs.values(), key=lambda run: run.path)
    shown = list(_tree(view, open_runs, now, width, room))
    return Group(*shown[: max(room, 1)], *status, hint)


def _tree(view: RunView, open_runs: list[OpenRun], now: float, width: int, room: int) -> Iterator[Text]:
    """The open runs: the run itself with its code and sub-calls, and a line for each child run."""
    spin = SPINNER[int(now * SPINNER_STEPS) % len(SPINNER)]
    root = next((run for run in open_runs if not run.path), None)
    children = [run for run in open_runs if run.path]
    if root is None:
        yield _line((spin, "cyan"), " starting")
        return
    yield _line((spin, "cyan"), " ", *_doing(root, view.root, now))
    below = list(_calls(root, now, width))
    below += [_child(child, view.sub, spin, now) for child in children[:MOST_LEVELS]]
    if len(children) > MOST_LEVELS:
        below.append(_line(f"  … {len(children) - MOST_LEVELS} more runs"))
    yield from _code(excerpt(root.code, first=CODE_LINES), room - 1 - len(below))
    yield from below


def _doing(run: OpenRun, model: str, now: float) -> Iterator[str | tuple[str, str]]:
    of = f" of {run.turns}" if run.turns else ""
    yield (f"turn {run.turn}{of}", "bold") if run.turn else ("before its first turn", "bold")
    yield f" · {DOING[run.doing].format(model=model or 'the model')} · {_seconds(now - run.since)}"


def _child(run: OpenRun, model: str, spin: str, now: float) -> Text:
    calls = f" · {run.counts.ended}/{run.counts.asked} sub-calls" if run.counts.asked else ""
    doing = DOING[run.doing].format(model=model or "the model")
    turn = f"turn {run.turn} {doing}{calls} · {_seconds(now - run.since)}"
    return _line("  " * run.depth, (spin, "cyan"), f" {turn} · ", (one_line(run.query), "italic"))


def _calls(run: OpenRun, now: float, width: int) -> Iterator[Text]:
    calls = run.counts
    if not calls.asked:
        return
    asked = [(work.begun, work.since) for work in run.in_flight()]
    chars = max(4, min(BAR_CHARS, width // 4))
    filled = chars * calls.ended // calls.asked
    text = f" {calls.ended}/{calls.asked}" if width < NARROW else f" {calls.ended} of {calls.asked} sub-calls"
    text += f" · {len(asked)} in flight" if asked else ""
    failed = (f" · {calls.failed} failed", "red") if calls.failed else ""
    yield _line("  ", ("━" * filled, "green"), ("─" * (chars - filled), "dim"), text, failed)
    plain = [(call.prompt_head, since) for call, since in asked if isinstance(call, SubAsked) and not call.child]
    for prompt, since in plain[:MOST_WAITING]:
        age = f"    {_seconds(now - since):>6} "
        yield _line(age, (_ends(one_line(prompt), max(width - len(age), 8)), "dim"))
    if len(plain) > MOST_WAITING:
        yield _line((f"    … {len(plain) - MOST_WAITING} more", "dim"))


def _status(view: RunView, now: float) -> Iterator[str]:
    limits, spent = view.limits, view.fold.spent
    most = limits.get("max_seconds")
    yield _of(_clock(now - view.began), None if most is None else _clock(most))
    calls = spent.get("sub_calls") or 0
    if calls or limits.get("max_sub_calls") is not None:
        yield f"{_of(f'{calls:,}', _count(limits.get('max_sub_calls')))} sub-calls"
    sent, said = spent.get("prompt_tokens") or 0, spent.get("completion_tokens") or 0
    if limits.get("max_tokens") is not None:
        yield f"{_of(f'{sent + said:,}', _count(limits['max_tokens']))} tokens"
    else:
        yield f"{sent:,} tokens in, {said:,} out"
    usd = spent.get("cost_usd")
    if usd is not None:
        yield _of(f"${usd:.4f}", None if limits.get("max_usd") is None else f"${limits['max_usd']:.2f}")
    elif sent:
        yield "price unknown"


def _begun(begun: RunIntro) -> Iterator[RenderableType]:
    yield Hanging(("question ", "dim"), Text(begun.query, "bold"), rows=6)
    yield Hanging(("about    ", "dim"), ", ".join(begun.contexts))
    models = begun.root if begun.root == begun.sub else f"{begun.root}, sub-calls {begun.sub}"
    yield Hanging(("model    ", "dim"), models)


def _turned(turned: TurnNote) -> Iterator[RenderableType]:
    yield Text("")
    text = f" ── {_seconds(turned.seconds)} · {turned.tokens:,} tokens"
    yield _line(("── ", "cyan"), (f"turn {turned.turn}", "bold cyan"), (text, "cyan"))
    for line in turned.prose.first:
        yield Hanging("", line)
    if turned.prose.left_out:
        yield _line((f"… {turned.prose.left_out} more lines", "dim"))


def _ran(ran: BlockNote, width: int) -> Iterator[RenderableType]:
    yield from _code(ran.code, len(ran.code.first) + 1)
    if asked := ran.calls.ended:
        failed = (f", {ran.calls.failed} failed", "red") if ran.calls.failed else ""
        cached = f", {ran.calls.cached:,} from cache" if ran.calls.cached else ""
        yield _line("  ", (_count_of(asked, "sub-call"), "magenta"), (cached, "dim"), failed)
        for example in ran.examples:
            answer = Text(example.answer, "red" if example.failed else "")
            yield Hanging("    ", Text.assemble((_ends(example.prompt, width // 2), "dim"), " → ", answer), rows=2)
        for child in ran.children[:MOST_LEVELS]:
            mark = ("    ✓ ", "green") if child.is_answered else ("    ✗ ", "red")
            query = ellipsize(child.query, width // 2)
            turns = _count_of(child.turns, "turn")
            yield Hanging(mark, f"child run, {turns}: {query} → {child.answer}", rows=2)
        if more := asked - len(ran.examples) - len(ran.children[:MOST_LEVELS]):
            yield _line((f"    … {more:,} more", "dim"))
    yield from _output(ran.output)
    if ran.error:
        yield Hanging(("  ✗ ", "red"), ran.error)
    if ran.final:
        yield Hanging(("  ✓ ", "green"), ran.final)
    if not (ran.output.first or ran.error or ran.final):
        yield _line(("  (nothing printed)", "dim"))


def _output(output: Excerpt) -> Iterator[RenderableType]:
    arrow = "→"
    for line in output.first:
        yield Hanging((f"  {arrow:<2}", "dim"), line)
        arrow = ""
    if output.left_out:
        yield _line((f"    … {output.left_out:,} lines left out of {output.total_chars:,} characters", "dim"))
    for line in output.last:
        yield Hanging("    ", line)


def _code(code: Excerpt, most: int) -> Iterator[Text]:
    """The first lines of the code, highlighted."""
    lines = code.first[: max(most, 0)] if len(code.first) + bool(code.left_out) <= most else code.first[: most - 1]
    if lines:
        text = "\n".join(lines)
        for line in Syntax(text, "python", theme=CODE_THEME, background_color="default").highlight(text).split("\n"):
            yield _line(("  │ ", "dim"), line)
    if most > 0 and (hidden := code.total_lines - len(lines)):
        yield _line(("  │ ", "dim"), (f"… {hidden} more lines", "dim"))


def _line(*parts: str | tuple[str, str] | Text) -> Text:
    """One line, cut at the width of the terminal."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _count_of(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _ends(text: str, chars: int) -> str:
    """The beginning and the end, since prompts often differ only in their last words."""
    half = chars // 2
    return text if len(text) <= chars else f"{text[: half - 1].rstrip()}… {text[-half:].lstrip()}"


def _packed(parts: Iterable[str], width: int) -> Iterator[str]:
    """The parts, joined into as few lines as possible."""
    line = ""
    for part in parts:
        longer = f"{line} · {part}" if line else part
        if len(longer) > width and line:
            yield line
            line = part
        else:
            line = longer
    if line:
        yield line


def _of(spent: str, limit: str | None) -> str:
    return spent if limit is None else f"{spent} of {limit}"


def _count(limit: int | None) -> str | None:
    return None if limit is None else f"{limit:,}"


def _seconds(seconds: float) -> str:
    return f"{max(seconds, 0.0):.1f} s" if seconds < 60 else _clock(seconds)


def _clock(seconds: float) -> str:
    whole = max(int(seconds), 0)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02} s"
