"""Logs: recognised by their time stamps, described with a regular expression that parses their lines."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

STAMPED_SHARE = 0.5
"""The share of lines that must have a time stamp; stack traces and wrapped messages have none."""

PARSED_SHARE = 0.8
MAX_LINE_CHARS = 2_000

_STAMPS = {
    "ISO 8601": r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?",
    "yyyy/mm/dd": r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d(?:[.,]\d+)?",
    "yymmdd hhmmss": r"\d{6} \d{6}",
    "common log": r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}",
    "ctime": r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}",
    "syslog": r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d",
    "dd/mm or mm/dd": r"\d\d[/.-]\d\d[/.-]\d\d(?:\d\d)? \d\d:\d\d:\d\d(?:[.,]\d+)?",
    "epoch": r"1\d{9}(?:\.\d+)?",
    "time of day": r"\d\d:\d\d:\d\d(?:[.,]\d+)?",
}
_LEVEL = r"TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|SEVERE|FATAL|CRITICAL"
_LEVEL_WORD = re.compile(rf"\b({_LEVEL})\b|\[({_LEVEL.lower()}|emerg|alert|crit)\]")
_LINE_PATTERNS = (
    r"^(?P<time>{stamp}) +(?P<level>{level}) +\[(?P<thread>[^\]]*)\] +(?P<component>[^\s:]+): ?(?P<message>.*)$",
    r"^(?P<time>{stamp}) - +(?P<level>{level}) +\[(?P<thread>.*?)\] - ?(?P<message>.*)$",
    r"^(?P<time>{stamp}) +(?P<pid>\d+) +(?P<level>{level}) +(?P<component>[^\s:]+): ?(?P<message>.*)$",
    r"^\[(?P<time>{stamp})\] +\[(?P<level>\w+)\] +(?P<message>.*)$",
    (
        r"^(?P<client>\S+) \S+ (?P<user>\S+) \[(?P<time>{stamp})\] "
        r"\"(?P<request>[^\"]*)\" (?P<status>\d+) (?P<size>\S+)(?P<rest>.*)$"
    ),
    r"^(?P<time>{stamp}) (?P<host>\S+) (?P<process>[^\s:\[]+)(?:\[(?P<pid>\d+)\])?: ?(?P<message>.*)$",
    r"^(?P<time>{stamp}) +(?P<level>{level}) +(?P<component>[^\s:]+): ?(?P<message>.*)$",
    r"^\[?(?P<time>{stamp})\]?[ :-]+\[?(?P<level>{level})\]?[ :-]+(?P<message>.*)$",
    r"^\[?(?P<time>{stamp})\]?[ :-]+(?P<message>.*)$",
)
_VARIABLE = re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-f]{8,}\b|\d+")


def describe_log(lines: Sequence[str], *, whole: bool) -> dict[str, object] | None:
    """The description of a log; None if too few lines have a time stamp. `whole`: `lines` are all lines of the text."""
    filled = [line[:MAX_LINE_CHARS] for line in lines if line.strip()]
    if len(filled) < 3:
        return None
    name, stamp = _stamp_of(filled)
    if stamp is None:
        return None
    stamps = [found for line in filled if (found := re.search(stamp, line[:200]))]
    levels = _levels(filled)
    described: dict[str, object] = {
        "format": "log",
        "time_format": name,
        "first_time": stamps[0].group(),
        "last_time": stamps[-1].group(),
        "lines_with_time": round(len(stamps) / len(filled), 3),
    }
    if levels:
        total = sum(levels.values())
        described["levels"] = levels if whole else {level: f"{n / total:.2%} of sampled" for level, n in levels.items()}
    return described | _fields(filled, stamp) | repeated_lines(filled, stamp=stamp)


def _stamp_of(lines: Sequence[str]) -> tuple[str, str | None]:
    """The name and pattern of the time stamp that most lines have at the same position, near their beginning."""
    few = lines[:: max(len(lines) // 400, 1)]
    for name, stamp in _STAMPS.items():
        at = Counter(found.start() for line in few if (found := re.search(rf"(?<![\d/:-]){stamp}(?!\d)", line[:120])))
        near_start = sum(n for start, n in at.items() if start <= (60 if name == "common log" else 2))
        if near_start >= STAMPED_SHARE * len(few):
            return name, stamp
    return "", None


def _levels(lines: Sequence[str]) -> dict[str, int]:
    found = (_LEVEL_WORD.search(line[:160]) for line in lines)
    return dict(Counter(match.group().strip("[]") for match in found if match).most_common(10))


def _fields(lines: Sequence[str], stamp: str) -> dict[str, object]:
    """The first pattern that parses nearly all lines with a time stamp, and the fields of one line."""
    stamped = [line for line in lines if re.search(stamp, line[:120])]
    few = stamped[:: max(len(stamped) // 500, 1)]
    for pattern in _LINE_PATTERNS:
        expression = pattern.replace("{stamp}", stamp).replace("{level}", _LEVEL)
        parsed = [match for line in few if (match := re.match(expression, line))]
        if len(parsed) >= PARSED_SHARE * len(few):
            example: Mapping[str, str | None] = parsed[len(parsed) // 2].groupdict()
            return {
                "line_regex": expression,
                "line_regex_fits": f"{len(parsed)} of {len(few)} sampled lines with a time stamp",
                "example": {field: (value or "")[:160] for field, value in example.items()},
                "values": _frequent(parsed),
            }
    return {}


def _frequent(parsed: Sequence["re.Match[str]"]) -> dict[str, object]:
    """The most frequent values of fields with few distinct ones."""
    frequent: dict[str, object] = {}
    for field in ("component", "process", "host", "status"):
        if field in parsed[0].groupdict():
            counts = Counter(match.group(field) for match in parsed)
            if len(counts) <= len(parsed) / 4:
                frequent[field] = {
                    "distinct_in_sample": len(counts),
                    "most_frequent": [value[:100] for value, _ in counts.most_common(8)],
                }
    return frequent


def repeated_lines(lines: Sequence[str], *, stamp: str | None = None) -> dict[str, object]:
    """Templates of lines that differ only in their numbers and time stamps, with their shares of the text."""
    few = lines[:: max(len(lines) // 5_000, 1)]
    if stamp:
        few = [re.sub(stamp, "<time>", line[:400], count=1) for line in few]
    counts = Counter(_VARIABLE.sub("<n>", line[:300]) for line in few)
    frequent = [(template, n) for template, n in counts.most_common(8) if n >= max(3, len(few) // 200)]
    if not frequent:
        return {}
    return {
        "repeated_lines": [{"template": template[:200], "share": round(n / len(few), 3)} for template, n in frequent]
    }
