"""Makes the pictures of the demo: `python docs/pictures.py` (needs Chromium and the extra `browser`).

`images/run-page.png` shows the page of the run, light and dark; `images/demo.svg` plays what `rlm-mcp demo` prints.
"""

import io
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from rich.console import Console
from rich.style import Style
from rich.text import Text

from rlm_mcp.cli.demo import run_demo
from rlm_mcp.settings import load_settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

IMAGES = Path(__file__).parent / "images"
COLUMNS, ROWS = 100, 30
CHAR_WIDTH, LINE_HEIGHT, MARGIN, BAR = 7.83, 18, 16, 30
MOST_LINES = 7
"""Of a block of code or an output in the terminal; the rest is left out, and counted."""
SECONDS_A_LINE, SECONDS_A_TURN, SECONDS_AT_THE_END = 0.09, 1.2, 9.0
COLOURS = {1: "r", 2: "g", 3: "y", 5: "b", 6: "c", 12: "b", 13: "b", 14: "c"}
"""The class of each of the colours that rich uses, by its number among the sixteen of a terminal."""
STYLE = """\
text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1f2733 }
.w { fill: #fbfcfd; stroke: #c6ccd5 } .d { fill: #677080 } .B { font-weight: 700 }
.r { fill: #b3261e } .g { fill: #1a7f37 } .c { fill: #0a6c86 } .y { fill: #855300 } .b { fill: #2456c4 }
@media (prefers-color-scheme: dark) {
text { fill: #dfe5ee } .w { fill: #12161d; stroke: #3a4350 } .d { fill: #8d98a8 }
.r { fill: #ff8f86 } .g { fill: #6fd08c } .c { fill: #6cc7e0 } .y { fill: #e3b667 } .b { fill: #8fb2ff } }
"""


class Screen(io.StringIO):
    """A terminal with colours that keeps what is printed on it."""

    def isatty(self) -> bool:
        """True: rich colours what it prints."""
        return True


def demo_output() -> list[Text]:
    """The lines that `rlm-mcp demo` prints on a terminal, without the advice after them."""
    os.environ |= {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "COLORTERM": ""}
    screen = Screen()
    anyio.run(partial(run_demo, load_settings(environ=dict(os.environ)), "support", screen, as_json=False))
    printed = screen.getvalue().partition("\nThe page of the run,")[0]
    lines = (Text.from_ansi(line) for line in printed.split("\n"))
    return [part for line in lines for part in line.wrap(Console(), COLUMNS) or [line]]


def shortened(lines: Sequence[Text]) -> list[Text]:
    """The lines with at most MOST_LINES of each block of code or output, and a line that counts what is left out."""
    kept: list[Text] = []
    block: list[Text] = []
    for line in (*lines, Text("")):
        if re.match(r"  [│ ] ", line.plain) and (block or "│" in line.plain or line.plain.startswith("    ")):
            block.append(line)
            continue
        left_out = len(block) - MOST_LINES
        kept += block if left_out < 2 else [*block[:MOST_LINES], Text(f"    … {left_out} more lines", "dim")]
        block = []
        kept.append(line)
    return kept[:-1]


def terminal(lines: Sequence[Text]) -> str:
    """An SVG that shows the lines one after another, scrolls, and begins again."""
    times = list(_times(lines))
    total = times[-1] + SECONDS_AT_THE_END
    width, height = round(COLUMNS * CHAR_WIDTH + 2 * MARGIN), ROWS * LINE_HEIGHT + BAR + MARGIN
    frames, shown = [], -1
    for index, time in enumerate(times):
        scrolled = max(0, index + 1 - ROWS)
        if scrolled != shown:
            frames.append(f"{100 * time / total:.2f}% {{ transform: translateY({-scrolled * LINE_HEIGHT}px) }}")
            shown = scrolled
    frames.append(f"100% {{ transform: translateY({-shown * LINE_HEIGHT}px) }}")
    appear = "".join(
        f"@keyframes l{i} {{ 0%, {100 * time / total:.2f}% {{ visibility: hidden }}"
        f" {100 * time / total + 0.01:.2f}%, 100% {{ visibility: visible }} }}\n.l{i} {{ animation-name: l{i} }}\n"
        for i, time in enumerate(times)
        if time
    )
    style = (
        f"{STYLE}.l {{ animation: {total:.1f}s step-end infinite }}\n"
        f"#s {{ animation: s {total:.1f}s step-end infinite }}\n@keyframes s {{ {' '.join(frames)} }}\n{appear}"
        "@media (prefers-reduced-motion: reduce) { .l, #s { animation: none }"
        f" #s {{ transform: translateY({-shown * LINE_HEIGHT}px) }} }}\n"
    )
    rows = "\n".join(
        f'<g class="l l{i}">{_row(line, BAR + 13 + i * LINE_HEIGHT)}</g>' for i, line in enumerate(lines) if line.plain
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="rlm-mcp demo in'
        f' a terminal">\n<style>\n{style}</style>\n<clipPath id="v"><rect x="0" y="{BAR}" width="{width}"'
        f' height="{ROWS * LINE_HEIGHT + 4}"/></clipPath>\n<rect class="w" x="0.5" y="0.5" width="{width - 1}"'
        f' height="{height - 1}" rx="8"/>\n<text class="d" x="{MARGIN}" y="20">$ rlm-mcp demo</text>\n'
        f'<g clip-path="url(#v)"><g id="s">\n{rows}\n</g></g>\n</svg>\n'
    )


def _times(lines: Sequence[Text]) -> Iterator[float]:
    """The second at which each line appears: a turn begins after a pause."""
    now = 0.0
    for line in lines:
        now += SECONDS_A_TURN if line.plain.startswith("── ") else SECONDS_A_LINE
        yield now


def _row(line: Text, y: float) -> str:
    spans = [
        (part.plain, _class(part)) for part in line.divide(sorted({p for s in line.spans for p in (s.start, s.end)}))
    ]
    return (
        f'<text xml:space="preserve" x="{MARGIN}" y="{y}">'
        + "".join(
            f'<tspan class="{css}">{escape(text)}</tspan>' if css else escape(text) for text, css in spans if text
        )
        + "</text>"
    )


def _class(part: Text) -> str:
    style = Style.combine([Style.null(), *(s.style for s in part.spans if isinstance(s.style, Style))])
    colour = COLOURS.get(style.color.number or 0, "") if style.color else ""
    return " ".join(name for name, is_so in ((colour, colour), ("B", style.bold), ("d", style.dim)) if is_so)


def page_picture(browser: "Browser", page: Path) -> bytes:
    """The beginning of the page in light colours above its timeline in dark ones, as one PNG."""
    halves = []
    for scheme, place, height in (("light", "main", 1130), ("dark", "#timeline", 530)):
        opened = browser.new_page(viewport={"width": 1280, "height": height}, color_scheme=scheme)  # type: ignore[arg-type] # a literal
        opened.goto(page.as_uri())
        opened.locator(place).first.scroll_into_view_if_needed()
        if scheme == "dark":
            opened.evaluate("place => document.querySelector(place).scrollIntoView()", place)
        halves.append(opened.screenshot())
        opened.close()
    return _stacked(halves)


def _stacked(pictures: Sequence[bytes]) -> bytes:
    from PIL import Image

    images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    whole = Image.new("RGB", (images[0].width, sum(image.height for image in images)))
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    out = io.BytesIO()
    whole.quantize(128, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def main() -> None:
    """Writes both pictures."""
    from playwright.sync_api import sync_playwright

    (IMAGES / "demo.svg").write_text(terminal(shortened(demo_output())), encoding="utf-8")
    page = load_settings(environ=dict(os.environ)).cache_dir / "demo" / "support.html"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        (IMAGES / "run-page.png").write_bytes(page_picture(browser, page))
        browser.close()


if __name__ == "__main__":
    main()
