"""The display of a cell's result for a model. Pure text, no decisions.

Text that came from the context or was printed by code stands between `<output>` and `</output>`. These tags cannot
occur inside, so text in the data cannot end its quotation.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlm_mcp.redact import ellipsize
from rlm_mcp.repl.types import CellResult, Variable

Strength = Literal["strong", "weak"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLimits:
    """How much of a cell's output a model is shown, in characters: `head` from its beginning, `tail` from its end.

    `variable` limits the preview of one variable, `variables` the number of variables.
    """

    head: int
    tail: int
    variable: int
    variables: int


# Other implementations show 8,000 to 20,000 characters; both ends and the true length are what matters.
STRONG = OutputLimits(head=9_000, tail=3_000, variable=200, variables=20)
# A 1.5B model forgets its instructions after more than about a kilobyte of output.
WEAK = OutputLimits(head=700, tail=300, variable=200, variables=8)


def observation(cell: CellResult, strength: Strength, *, block: int | None = None, index: int = 0) -> str:
    """The result of a block, for the model that wrote it. `block` is its number if the reply held several.

    `index` is its place in the REPL's `history`.
    """
    shown = output_limits(strength)
    parts = [f"Block {block}:"] if block is not None else []
    output = output_text(cell, shown, index)
    if output:
        parts.append(as_data(output))
    elif cell.error is None and cell.final is None:
        parts.append("The block ran and printed nothing.")
    if not cell.stdout.strip() and cell.value is None and cell.changed:
        parts.append(as_data(variables_text(_named(cell.variables, cell.changed), shown)))
    parts += [error_text(cell, strength)] if cell.error or cell.stopped_by else []
    parts += cell.notes
    return "\n".join(parts)


def output_text(cell: CellResult, shown: OutputLimits, index: int = 0) -> str:
    """Head and tail of the output with its true length, and the value of the last expression."""
    place = f"{shown.head}:{2 * shown.head}"
    rest = f"show(history[{index}], {shown.head})" if shown == STRONG else f"print(history[{index}][{place}])"
    printed = cut_middle(cell.stdout, max(cell.stdout_chars, len(cell.stdout)), shown, f"{rest} goes on")
    parts = [printed.rstrip("\n")] if printed.strip() else []
    if cell.value is not None:
        parts.append(cut_middle(cell.value, len(cell.value), shown, "assign it and print a slice"))
    if cell.stderr.strip():
        parts.append(ellipsize(cell.stderr.strip(), shown.tail))
    return "\n".join(parts)


def cut_middle(text: str, true_chars: int, shown: OutputLimits, rest: str = "print less, or a slice") -> str:
    """The text if it is short, else both its ends, how much is missing and how to see the `rest`.

    `text` may have been cut before.
    """
    if max(len(text), true_chars) <= shown.head + shown.tail:
        return text
    left_out = true_chars - shown.head - shown.tail
    note = f"\n[… {left_out:,} of {true_chars:,} characters are not shown: {rest} …]\n"
    return text[: shown.head] + note + text[-shown.tail :]


def error_text(cell: CellResult, strength: Strength) -> str:
    """Why a block ended early, with the line that failed, and whether the variables are kept."""
    kept = "The variables are as they were before this block." if cell.undone else "The variables are kept."
    if cell.stopped_by == "deadline":
        return f"The block was stopped because it took longer than {cell.seconds:.0f} s. {kept} Do less at once."
    if cell.stopped_by is not None and cell.error is None:
        return f"The block was ended by the sandbox ({cell.stopped_by}). {kept}"
    if cell.error is None:
        return ""
    lines = cell.code.split("\n")
    where = cell.error.line
    place = f"Line {where}" if where is not None else "The block"
    code = lines[where - 1].strip() if where is not None and 0 < where <= len(lines) else ""
    raised = f"{place} failed with {cell.error.type}: {ellipsize(cell.error.message, 600)}"
    if cell.error.type == "JSONDecodeError" and cell.error.message.startswith("Extra data"):
        raised += "\nThe text holds several JSON values: parse each line by itself."
    if strength == "strong" and cell.error.traceback:
        raised += "\n" + as_data(_cut_front(cell.error.traceback, 1_500))
    elif code:
        raised += f"\nThat line is: {ellipsize(code, 200)}"
    return f"{raised}\n{kept}"


def one_line_error(cell: CellResult) -> str:
    """The failure of a block in one line, for a fresh start."""
    if cell.error is None:
        return f"the block was stopped ({cell.stopped_by})"
    return ellipsize(f"{cell.error.type}: {cell.error.message}".replace("\n", " "), 300)


def variables_text(variables: Sequence[Variable], shown: OutputLimits) -> str:
    """One line for each variable: name, type, size and the start of its value."""
    rows = []
    for variable in variables[: shown.variables]:
        size = f", {variable.size:,} items" if variable.size is not None else ""
        rows.append(f"{variable.name} ({variable.type}{size}) = {ellipsize(variable.preview, shown.variable)}")
    return "\n".join(rows)


def as_data(text: str) -> str:
    """Text from the context or from code, quoted so that it cannot end its own quotation."""
    return f"<output>\n{defuse(text)}\n</output>"


def output_limits(strength: Strength) -> OutputLimits:
    """How much of an output a model of this strength is shown."""
    return WEAK if strength == "weak" else STRONG


def defuse(text: str) -> str:
    """Breaks the tags that quote data wherever they occur in the data."""
    return re.sub(r"<(/?)(output|material)\b", r"<\1 \2", text)


def _named(variables: Sequence[Variable], names: Sequence[str]) -> list[Variable]:
    return [variable for variable in variables if variable.name in names]


def _cut_front(text: str, chars: int) -> str:
    return text if len(text) <= chars else "…" + text[-chars + 1 :]
