"""`runs export`: writes records of runs as they are, or as chat examples for training, as JSON Lines."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rlm_mcp.cli.commands.output import name_commands
from rlm_mcp.cli.commands.registry import ANSWERED, FAILED, settings_from
from rlm_mcp.errors import RlmError, SettingsError
from rlm_mcp.redact import escape_controls, without_keys

if TYPE_CHECKING:
    from rlm_mcp.records.protocols import RunRecord
    from rlm_mcp.settings import Settings
    from rlm_mcp.workspace.chat_examples import Score
    from rlm_mcp.workspace.workspace import Workspace

PAGE = 100
"""Runs that are listed at once."""

_DAMAGED = (RlmError, ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)
"""The errors that a damaged record may raise when it is played or told."""


def add_arguments(parser: argparse.ArgumentParser, *, id_help: str) -> None:
    """The arguments of `runs export`."""
    parser.add_argument("id", nargs="*", help=f"{id_help}, or a folder of runs (default: every run)")
    parser.add_argument(
        "--as",
        dest="form",
        choices=("record", "messages"),
        default="record",
        help="record: the events (default); messages: a chat with a model per line, for training",
    )
    parser.add_argument("-o", "--out", help="the file to write (default: standard output)")
    parser.add_argument("--scores", help='with --as messages: JSON Lines of {"run_id": …, "score": …, "scorer": …}')


async def export(options: argparse.Namespace, workspace: "Workspace") -> int:
    """Writes the runs one after the other. One that cannot be read is named on stderr and left out."""
    if options.scores and options.form != "messages":
        raise SettingsError("--scores says what chats are worth, and records stay as they are: add --as messages")
    scores = _read_scores(options.scores)
    mask = _masking(settings_from(options))
    runs, left_out = _find_runs(options.id, workspace)
    written = 0
    with _output(options.out) as file:
        for run in runs:
            try:
                if options.form == "record":
                    await _write_record(run, file)
                else:
                    await _write_examples(workspace, run, file, scores, mask)
                written += 1
            except _DAMAGED as error:
                left_out += 1
                _print_note(f"{run.run_id} is left out: {_reason(error)}")
    if options.out and not options.quiet:
        print(escape_controls(f"{written} {'run' if written == 1 else 'runs'} → {options.out}"), file=sys.stderr)
    return FAILED if left_out else ANSWERED


async def _write_record(run: "RunRecord", file: TextIO) -> None:
    from rlm_mcp.concurrency import run_in_thread

    file.write(await run_in_thread(run.trace))


async def _write_examples(
    workspace: "Workspace",
    run: "RunRecord",
    file: TextIO,
    scores: Mapping[str, "Score"],
    mask: Callable[[str], str],
) -> None:
    """Writes the examples of a run, whose code is executed again for the prompts that its record does not hold."""
    from rlm_mcp.concurrency import run_in_thread
    from rlm_mcp.workspace.chat_examples import ChatExamples, Score

    started = await run_in_thread(run.started)  # raises where there is no readable beginning
    events = await run_in_thread(lambda: list(run.events()))
    lines: list[str] = []
    examples = ChatExamples(
        events=events,
        answer=await run_in_thread(run.answer),
        score=scores.get("" if started is None else started.run_id) or Score(),
        mask=mask,
        write=lambda example: lines.append(json.dumps(example, ensure_ascii=True) + "\n"),
    )
    try:
        await workspace.replay(events, None, examples.end, on_request=examples.hear)
    except _DAMAGED as error:
        _print_note(f"{run.run_id} cannot be replayed, so its prompts are not exact: {_reason(error)}")
    examples.finish()
    file.writelines(lines)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, RlmError) else "its record is damaged"


def _find_runs(ids: list[str], workspace: "Workspace") -> tuple[Iterable["RunRecord"], int]:
    """The runs of these ids and folders, or all; and how many of the ids mean none. Raises if all of them do."""
    if not ids:
        return _all_runs(workspace), 0
    found: list[RunRecord] = []
    errors: list[RlmError] = []
    for one in ids:
        try:
            found += _runs_of(one, workspace)
        except RlmError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    for unknown in errors:
        _print_note(str(unknown))
    return found, len(errors)


def _runs_of(one: str, workspace: "Workspace") -> Iterable["RunRecord"]:
    """The run of this id, or those in this folder. Raises UnknownRun, AmbiguousRun, SettingsError."""
    from rlm_mcp.records.run import Run

    folder = Path(one)
    if not folder.is_dir():
        return [workspace.runs.records.get(one)]
    inner = folder / "runs"
    folders = sorted((inner if inner.is_dir() else folder).iterdir())
    found = [entry for entry in (folder, *folders) if (entry / "events.jsonl").is_file()]
    if not found:
        raise SettingsError(f"{folder} holds no runs: give a data directory, its folder `runs`, or the id of a run")
    return map(Run, found)


def _all_runs(workspace: "Workspace") -> Iterator["RunRecord"]:
    records = workspace.runs.records
    cursor: str | None = None
    while True:
        page = records.list(limit=PAGE, cursor=cursor)
        yield from (records.get(state.run_id) for state in page.runs)
        if (cursor := page.next_cursor) is None:
            return


def _print_note(text: str) -> None:
    print(f"rlm-mcp: {escape_controls(name_commands(text))}", file=sys.stderr)


def _masking(settings: "Settings") -> Callable[[str], str]:
    """Replaces the configured keys, and whatever looks like a key, in a text."""
    secrets = [settings.api_key, settings.sub_api_key]
    secrets += [secret for server in settings.tools.values() for secret in server.env.values()]

    def mask(text: str) -> str:
        for secret in secrets:
            text = secret.mask_in_reply(text)
        return without_keys(text)

    return mask


def _read_scores(path: str | None) -> Mapping[str, "Score"]:
    from rlm_mcp.workspace.chat_examples import read_scores

    if path is None:
        return {}
    try:
        with Path(path).open(encoding="utf-8") as file:
            return read_scores(file)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--scores {path} cannot be read: {error}") from error


@contextmanager
def _output(path: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears when all is written."""
    from io import TextIOWrapper

    from rlm_mcp.files import replacing

    if path is None:
        yield sys.stdout
        return
    if (Path(path).parent / "events.jsonl").exists():
        raise SettingsError(f"{path} is in the folder of a run, whose record it could replace: write it elsewhere")
    try:
        with replacing(Path(path), mode=0o600) as file:
            text = TextIOWrapper(file, encoding="utf-8", newline="\n")
            yield text
            text.flush()
            text.detach()
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror or error}") from error
