"""Headings of documents, and the names of languages and file types."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from rlm_mcp.contexts.types import PageMark

MAX_HEADINGS = 40
_HASHES = re.compile(r"(#{1,6})\s+(\S.{0,150})")
_NUMBERED = re.compile(r"((?:\d+\.)+\d*|[IVXLC]+\.|CHAPTER|Chapter|PART|Part|APPENDIX|Appendix)\s+(\S.{0,100})")
_UNDERLINE = re.compile(r"([=\-~^\"'*+#])\1{2,}")
_PROSE = {"", ".md", ".markdown", ".rst", ".txt", ".adoc", ".org", ".pdf", ".docx", ".html", ".htm", ".epub"}

_SUFFIXES_OF = {
    "Python": ".py .pyi",
    "notebook": ".ipynb",
    "JavaScript": ".js .mjs .cjs .jsx",
    "TypeScript": ".ts .tsx",
    "Java": ".java",
    "Kotlin": ".kt",
    "Scala": ".scala",
    "C": ".c .h",
    "C++": ".cc .cpp .cxx .hpp .hh",
    "C#": ".cs",
    "Go": ".go",
    "Rust": ".rs",
    "Ruby": ".rb",
    "PHP": ".php",
    "Swift": ".swift",
    "Objective-C": ".m",
    "R": ".r",
    "Julia": ".jl",
    "Lua": ".lua",
    "Perl": ".pl .pm",
    "shell": ".sh .bash .zsh",
    "PowerShell": ".ps1",
    "SQL": ".sql",
    "HTML": ".html .htm",
    "CSS": ".css .scss",
    "XML": ".xml .xsl",
    "SVG": ".svg",
    "JSON": ".json",
    "JSON Lines": ".jsonl",
    "YAML": ".yaml .yml",
    "TOML": ".toml",
    "INI": ".ini .cfg",
    "CSV": ".csv",
    "TSV": ".tsv",
    "Markdown": ".md",
    "reStructuredText": ".rst",
    "TeX": ".tex",
    "plain text": ".txt",
    "log": ".log",
    "Elixir": ".ex .exs",
    "Erlang": ".erl",
    "Haskell": ".hs",
    "OCaml": ".ml",
    "Clojure": ".clj",
    "Zig": ".zig",
    "Nim": ".nim",
    "Dart": ".dart",
    "Vue": ".vue",
    "Svelte": ".svelte",
    "Protocol Buffers": ".proto",
    "Terraform": ".tf",
    "Fortran": ".f90",
    "assembly": ".asm .s",
    "WebAssembly text": ".wat",
    "diff": ".diff .patch",
    "translations": ".po",
    "e-mail": ".eml",
    "mailbox": ".mbox",
}
LANGUAGES = {suffix: name for name, suffixes in _SUFFIXES_OF.items() for suffix in suffixes.split()}
_NAMES = {
    "makefile": "Makefile",
    "dockerfile": "Dockerfile",
    "cmakelists.txt": "CMake",
    "readme": "plain text",
    "license": "plain text",
}


def language(path: str) -> str:
    """The language or type of a file, judged by its name; for a compressed file, that of its content."""
    pure = PurePosixPath(path)
    if pure.suffix.lower() in {".gz", ".bz2", ".xz", ".zst"}:
        pure = pure.with_suffix("")
    return LANGUAGES.get(pure.suffix.lower()) or _NAMES.get(pure.name.lower()) or pure.suffix.lower() or "no suffix"


def headings(lines: Sequence[str], *, suffix: str, pages: Sequence[PageMark] = ()) -> dict[str, object]:
    """The pages and headings of a document; `lines` begins at line 1."""
    described: dict[str, object] = {}
    if pages:
        described["pages"] = {
            "count": len(pages),
            "first": [{"line": mark.line, "label": mark.label} for mark in pages[:10]],
        }
    if suffix not in _PROSE:
        return described
    found: list[dict[str, object]] = []
    fenced = False
    for number, line in enumerate(lines, 1):
        fenced ^= line.startswith(("```", "~~~"))
        if fenced:
            continue
        if (match := _HASHES.fullmatch(line)) and suffix not in {".txt", ""}:
            found.append({"line": number, "level": len(match[1]), "text": match[2].strip("# ")})
        elif _underlined(lines, number):
            found.append(
                {"line": number - 1, "level": 1 if line[0] == "=" else 2, "text": lines[number - 2].strip()[:150]}
            )
        elif _alone(lines, number) and _NUMBERED.fullmatch(line.strip()):
            found.append({"line": number, "level": 1, "text": line.strip()})
    if len(found) >= 2:
        described["headings"] = found[:MAX_HEADINGS]
        if len(found) > MAX_HEADINGS:
            described["more_headings"] = len(found) - MAX_HEADINGS
    return described


def _underlined(lines: Sequence[str], number: int) -> bool:
    """Whether this line underlines the one before, which has a blank line or nothing above it."""
    line = lines[number - 1]
    if number < 2 or not _UNDERLINE.fullmatch(line):
        return False
    title = lines[number - 2]
    return (
        0 < len(title.strip()) <= len(line) + 2
        and title[0] not in " -=|+"
        and (number == 2 or not lines[number - 3].strip())
    )


def _alone(lines: Sequence[str], number: int) -> bool:
    before = lines[number - 2] if number > 1 else ""
    after = lines[number] if number < len(lines) else ""
    return not before.strip() and not after.strip()
