"""Plans of what `install` and `uninstall` change, so that a change is shown before it is made.

A plan is a function of the file as it was read, so the diff shown is exactly what is written. Uninstalling restores
the backup byte for byte if nothing but the entry has changed since; otherwise it removes the entry alone.
"""

import json
from dataclasses import dataclass, replace
from difflib import unified_diff
from pathlib import Path
from typing import Literal

from rlm_mcp.errors import ClientConfigError
from rlm_mcp.install.clients import WAIT_SECONDS, WAIT_VARIABLE, Client, Entry
from rlm_mcp.install.config_file import ConfigFile, decode, remove_backup, replace_config, write_backup
from rlm_mcp.install.entry import find_entry, remove_entry, set_entry
from rlm_mcp.install.text_edit import NotEditable
from rlm_mcp.redact import mask_secrets

# The diff of a configuration that is all on one line would be two lines of thousands of characters.
LONGEST_LINE_CHARS = 400
NO_LINE_END = "\\ No newline at end of file"  # the wording of diff

ChangeKind = Literal["add", "update", "remove", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One change of one file. `after` is None if the file is removed; `backup` is what happens to the backup."""

    client: Client
    file: ConfigFile
    change: ChangeKind
    after: bytes | None = None
    backup: Literal["write", "keep", "drop"] = "keep"
    notes: tuple[str, ...] = ()

    @property
    def diff(self) -> str:
        """The change as a unified diff, with secrets masked."""
        before, after = self.file.content or b"", self.after or b""
        if self.change == "none" or before == after:
            return ""
        old, new = (decode(content, self.file.path) for content in (before, after))
        name = str(self.file.target)
        lines = list(
            unified_diff(
                old.splitlines(keepends=True),
                new.splitlines(keepends=True),
                name if self.file.content is not None else "nothing",
                name if self.after is not None else "nothing",
            )
        )
        if any(len(line) > LONGEST_LINE_CHARS for line in lines):
            return self._entry_diff(old, new)
        return mask_secrets("".join(line if line.endswith("\n") else f"{line}\n{NO_LINE_END}\n" for line in lines))

    def _entry_diff(self, old: str, new: str) -> str:
        entries = ((mark, find_entry(text, self.client)) for mark, text in (("-", old), ("+", new)))
        path = ".".join(self.client.path)
        lines = (
            f"{mark} {path}: {json.dumps(entry, ensure_ascii=False)}\n" for mark, entry in entries if entry is not None
        )
        return mask_secrets(f"{self.file.target}\n" + "".join(lines))


def with_longest_wait(client: Client, text: str, entry: Entry) -> Entry:
    """The entry with the wait that fits the time limit of calls, where this program sets the limit and not the user."""
    try:
        old = find_entry(text, client)
    except (NotEditable, ClientConfigError):  # which planning tells
        return entry
    is_ours = not isinstance(old, dict) or all(old.get(name, limit) == limit for name, limit in client.limits.items())
    if not client.limits_calls or entry.url or not is_ours:
        return entry
    return replace(entry, env={WAIT_VARIABLE: str(WAIT_SECONDS), **entry.env})


def plan_install(client: Client, file: ConfigFile, entry: Entry) -> Plan:
    """The change after which the client starts the server with this entry. Raises ClientConfigError."""
    try:
        text = file.text if file.content is not None else client.preamble
        old = find_entry(text, client)
        new = client.merge_entry(old, entry)
        if new == old:
            return Plan(client=client, file=file, change="none", after=file.content)
        after = file.encode(set_entry(text, client, new))
        keeps = old is not None and file.backup is not None and _made_from(file.backup, file, client)
    except NotEditable as error:
        raise _refused(error, client, file, "add") from error
    return Plan(
        client=client,
        file=file,
        change="add" if old is None else "update",
        after=after,
        backup="keep" if keeps or file.content is None else "write",
        notes=_notes(client, file),
    )


def plan_uninstall(client: Client, file: ConfigFile) -> Plan:
    """The change after which the client no longer has the server. Raises ClientConfigError."""
    try:
        text = file.text
        if file.content is None or find_entry(text, client) is None:
            return Plan(client=client, file=file, change="none", after=file.content)
        notes = _notes(client, file)
        if file.backup is not None and _made_from(file.backup, file, client):
            return Plan(client=client, file=file, change="remove", after=file.backup, backup="drop", notes=notes)
        if file.backup is None and _made_from(client.preamble.encode(), file, client):
            return Plan(client=client, file=file, change="remove", after=None, notes=notes)
        after = file.encode(remove_entry(text, client))
    except NotEditable as error:
        raise _refused(error, client, file, "remove") from error
    return Plan(client=client, file=file, change="remove", after=after, backup="write", notes=notes)


def apply_plan(plan: Plan) -> Path | None:
    """Makes the change; returns the path of the backup, or None if there is none. Raises ClientConfigError."""
    if plan.change == "none":
        return None
    kept = write_backup(plan.file) if plan.backup == "write" else None
    replace_config(plan.file, plan.after)
    if plan.backup == "drop":
        remove_backup(plan.file)
        return None
    return kept or (plan.file.backup_path if plan.file.backup is not None else None)


def _made_from(earlier: bytes, file: ConfigFile, client: Client) -> bool:
    """Whether the file is `earlier` with our entry added and otherwise unchanged."""
    try:
        with_it = set_entry(decode(earlier, file.path), client, find_entry(file.text, client))
    except (NotEditable, ClientConfigError):  # the file cannot have been made from such a backup
        return False
    return file.encode(with_it) == file.content


def _notes(client: Client, file: ConfigFile) -> tuple[str, ...]:
    notes = []
    if file.path.absolute() != file.target and file.path.is_symlink():
        notes.append(f"{file.path} is a symbolic link: the change is made to {file.target}")
    if not file.target.parent.is_dir():
        notes.append(f"{file.target.parent} does not exist yet: is {client.title} installed?")
    return tuple(notes)


def _refused(error: NotEditable, client: Client, file: ConfigFile, verb: Literal["add", "remove"]) -> ClientConfigError:
    return ClientConfigError(
        f"{file.target} {error}: nothing was changed; correct the file, or {verb} by hand the entry that "
        f"`rlm-mcp install {client.name} --print` shows"
    )
