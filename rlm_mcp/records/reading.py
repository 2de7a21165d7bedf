"""Reading the file of a record: one JSON object a line, the last one possibly torn."""

import json
from collections.abc import Iterator
from pathlib import Path

from rlm_mcp.errors import RunRecordTooNew
from rlm_mcp.records.events import FORMAT, Event, event_from_json


def read_events(path: Path, *, until: int | None = None, only: tuple[bytes, ...] = ()) -> Iterator[Event]:
    """The events of a record file. The arguments are those of `read_lines`. Raises RunRecordTooNew."""
    return (event for event, _ in read_lines(path, until=until, only=only) if event is not None)


def read_lines(
    path: Path, position: int = 0, *, until: int | None = None, only: tuple[bytes, ...] = ()
) -> Iterator[tuple[Event | None, int]]:
    """The events of a record file from byte `position` on, each with the position after it; None for other lines.

    With `until`, reading stops at that position. With `only`, lines after the first are skipped unless they begin with
    one of these. A torn last line is skipped. Raises RunRecordTooNew when it reads the first line.
    """
    with path.open("rb") as file:
        file.seek(position)
        for line in file:
            is_first = position == 0
            position += len(line)
            if not line.endswith(b"\n") or (until is not None and position > until):
                return
            if only and not is_first and not line.startswith(only):
                continue
            try:
                data = json.loads(line)
            except (ValueError, RecursionError):  # a line that a crash tore and a later writer ended, or a damaged one
                data = None
            if is_first:
                check_format(path.parent.name, data)
            yield event_or_none(data), position


def event_or_none(data: object) -> Event | None:
    """The event of a JSON value, if it is one."""
    try:
        return event_from_json(data)
    except ValueError:
        return None


def check_format(run_id: str, first: object) -> None:
    """Raises RunRecordTooNew if the first line of a record says that this version cannot read it."""
    written = first.get("format") if isinstance(first, dict) else None
    if isinstance(written, int) and written > FORMAT:
        raise RunRecordTooNew(
            f"{run_id} was written in format {written}, this version reads up to {FORMAT}: update rlm-mcp"
        )
