"""Reading the file of a record: one JSON object a line, the last one possibly torn."""

import json
from collections.abc import Iterator
from pathlib import Path

from rlm_mcp.errors import RunRecordTooNew
from rlm_mcp.records.events import FORMAT, Event, event_from_json


def read_events(path: Path, *, until: int | None = None, only: tuple[bytes, ...] = ()) -> Iterator[Event]:
    """The events of a record file.

    With `until`, reading stops at that many bytes. With `only`, lines after the first are parsed only if they begin
    with one of these. A torn last line is skipped, and so is one that a crash tore and a later writer ended.
    Raises RunRecordTooNew.
    """
    return (event for event in read_lines(path, until=until, only=only) if event is not None)


def read_lines(path: Path, *, until: int | None = None, only: tuple[bytes, ...] = ()) -> Iterator[Event | None]:
    """The same, with None for each line whose JSON is no event."""
    size = 0
    with path.open("rb") as file:
        for number, line in enumerate(file):
            size += len(line)
            if not line.endswith(b"\n") or (until is not None and size > until):
                return
            if only and number and not line.startswith(only):
                continue
            try:
                data = json.loads(line)
            except ValueError:
                continue
            if number == 0:
                _check_format(path, data)
            yield event_or_none(data)


def read_lines_from(path: Path, position: int) -> Iterator[tuple[Event | None, int]]:
    """The lines from byte `position` on, each with the position after it; None for a line that holds no event.

    Reading from the beginning raises RunRecordTooNew.
    """
    with path.open("rb") as file:
        file.seek(position)
        for line in file:
            if not line.endswith(b"\n"):
                return
            data = _json_or_none(line)
            if position == 0:
                _check_format(path, data)
            position += len(line)
            yield event_or_none(data), position


def _json_or_none(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def event_or_none(data: object) -> Event | None:
    """The event of a JSON value, if it is one."""
    try:
        return event_from_json(data)
    except ValueError:
        return None


def _check_format(path: Path, first: object) -> None:
    written = first.get("format") if isinstance(first, dict) else None
    if isinstance(written, int) and written > FORMAT:
        raise RunRecordTooNew(
            f"{path.parent.name} was written in format {written}, this version reads up to {FORMAT}: update rlm-mcp"
        )
