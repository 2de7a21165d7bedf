"""What `install` and `uninstall` would change, shown before it is done.

A plan is a function of the file as it was read, so that what is shown is what is written. Taking the entry out gives
back the copy that was kept, byte for byte, if nothing but the entry has changed since; else only the entry goes.
"""

import json
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Literal

from rlm_mcp.errors import ClientConfigError
from rlm_mcp.install.clients import Client, Entry
from rlm_mcp.install.config_file import ConfigFile, decode, remove_backup, replace_config, write_backup
from rlm_mcp.install.entry import find_entry, remove_entry, set_entry
from rlm_mcp.install.text_edit import NotEditable
from rlm_mcp.redact import mask_secrets

# A configuration on one line is not shown as two lines of thousands of characters.
LONGEST_LINE_CHARS = 400
NO_LINE_END = "\\ no line end at the end of the file"  # as diff says it

ChangeKind = Literal["add", "update", "remove", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One change of one file. `after` is None where the file itself goes; `backup` says what becomes of the copy."""

    client: Client
    file: ConfigFile
    change: ChangeKind
    after: bytes | None = None
    backup: Literal["write", "keep", "drop"] = "keep"
    notes: tuple[str, ...] = ()

    @property
    def diff(self) -> str:
        """What changes, as a unified diff with the secrets masked."""
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
            return self._in_short(old, new)
        return mask_secrets("".join(line if line.endswith("\n") else f"{line}\n{NO_LINE_END}\n" for line in lines))

    def _in_short(self, old: str, new: str) -> str:
        said = ((mark, find_entry(text, self.client)) for mark, text in (("-", old), ("+", new)))
        path = ".".join(self.client.path)
        shown = (
            f"{mark} {path}: {json.dumps(entry, ensure_ascii=False)}\n" for mark, entry in said if entry is not None
        )
        return mask_secrets(f"{self.file.target}\n" + "".join(shown))


def plan_install(client: Client, file: ConfigFile, entry: Entry) -> Plan:
    """What has to change for the client to start the server so. Raises ClientConfigError."""
    try:
        text = file.text
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
    """What has to change for the client not to know the server. Raises ClientConfigError."""
    try:
        text = file.text
        if file.content is None or find_entry(text, client) is None:
            return Plan(client=client, file=file, change="none", after=file.content)
        notes = _notes(client, file)
        if file.backup is not None and _made_from(file.backup, file, client):
            return Plan(client=client, file=file, change="remove", after=file.backup, backup="drop", notes=notes)
        if file.backup is None and _made_from(b"", file, client):
            return Plan(client=client, file=file, change="remove", after=None, notes=notes)
        after = file.encode(remove_entry(text, client))
    except NotEditable as error:
        raise _refused(error, client, file, "remove") from error
    return Plan(client=client, file=file, change="remove", after=after, backup="write", notes=notes)


def apply_plan(plan: Plan) -> Path | None:
    """Does it; returns where the copy of the old file is, if there is one. Raises ClientConfigError."""
    if plan.change == "none":
        return None
    kept = write_backup(plan.file) if plan.backup == "write" else None
    replace_config(plan.file, plan.after)
    if plan.backup == "drop":
        remove_backup(plan.file)
        return None
    return kept or (plan.file.backup_path if plan.file.backup is not None else None)


def _made_from(earlier: bytes, file: ConfigFile, client: Client) -> bool:
    """Whether the file is `earlier` with our entry and nothing else."""
    try:
        with_it = set_entry(decode(earlier, file.path), client, find_entry(file.text, client))
    except (NotEditable, ClientConfigError):  # whatever the copy is, the file was not made from it
        return False
    return file.encode(with_it) == file.content


def _notes(client: Client, file: ConfigFile) -> tuple[str, ...]:
    notes = []
    if file.path.absolute() != file.target and file.path.is_symlink():
        notes.append(f"{file.path} is a link: {file.target} is what changes")
    if not file.target.parent.is_dir():
        notes.append(f"{file.target.parent} does not exist yet: is {client.title} installed?")
    return tuple(notes)


def _refused(error: NotEditable, client: Client, file: ConfigFile, what: str) -> ClientConfigError:
    verb = "see what to add with" if what == "add" else "what was added is shown by"
    return ClientConfigError(
        f"{file.target} {error}: nothing was changed; correct it ({verb} `rlm-mcp install {client.name} --print`)"
    )
