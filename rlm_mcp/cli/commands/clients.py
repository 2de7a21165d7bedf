"""`install` and `uninstall`: add this server to the configuration of an MCP client, and remove it."""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rlm_mcp.cli.commands.output import print_json
from rlm_mcp.cli.commands.registry import ANSWERED, FAILED, SETTING_FLAGS, Commands, settings_from
from rlm_mcp.cli.commands.serving import prepare_first_answers
from rlm_mcp.errors import SettingsError
from rlm_mcp.install.user_folders import current_user_folders
from rlm_mcp.redact import escape_controls
from rlm_mcp.settings import config_path, load_settings

if TYPE_CHECKING:
    from rlm_mcp.install.clients import Client, Entry
    from rlm_mcp.install.config_file import ConfigFile
    from rlm_mcp.install.plan import Plan


def add_commands(commands: Commands) -> None:
    """Registers `install` and `uninstall`."""
    text = "add this server to the configuration of an MCP client; without a client, list the known ones"
    installs = commands.add("install", install, text)
    installs.add_argument("client", nargs="?", help="claude-desktop, cursor, vscode, …")
    installs.add_argument("--print", action="store_true", help="print the entry to add, and write nothing")
    installs.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="an environment variable of the server, by default with its present value, written in plain text",
    )
    installs.add_argument("--url", help="connect to a server over HTTP at this URL instead of starting one")
    installs.add_argument("--token", help="the bearer token for --url, written into the file in plain text")
    removes = commands.add("uninstall", uninstall, "remove this server from the configuration of an MCP client")
    removes.add_argument("client", help="claude-desktop, cursor, vscode, …")
    for parser in (installs, removes):
        place = parser.add_mutually_exclusive_group()
        place.add_argument(
            "--project", nargs="?", const=".", metavar="DIR", help="change the file of a project, not that of the user"
        )
        place.add_argument("--config", metavar="FILE", help="change this file, which has the format of the client")
        parser.add_argument("--yes", action="store_true", help="write without asking")


def install(options: argparse.Namespace) -> int:
    """Shows the change of the client's configuration, asks for confirmation, and writes it."""
    from rlm_mcp.install.clients import find_client
    from rlm_mcp.install.own_command import own_command, remote_entry, server_environment

    flags = {name: str(value) for name in SETTING_FLAGS if (value := getattr(options, name, None)) is not None}
    if options.url is not None or options.token is not None:
        entry = remote_entry(options.url, options.token, has_environment=bool(flags or options.env))
    else:
        entry = own_command(server_environment(flags, options.env, current_user_folders().variables))
    if options.client is None and not options.print:
        return _list_clients(options, entry)
    client = find_client(options.client) if options.client is not None else None
    from rlm_mcp.install.plan import plan_install, with_longest_wait

    if options.print or client is None:
        return _print_entry(client, entry if client is None else with_longest_wait(client, "", entry))
    file = _config_file(options, client)
    entry = with_longest_wait(client, file.text, entry)
    plan = plan_install(client, file, entry)
    if plan.change == "none":
        return _report(options, plan, f"{client.title} is already current: {plan.file.path}")
    hints = [] if options.json or entry.url else _unseen_variables(options, entry)
    return _ask_and_write(options, plan, [*hints, client.remark, client.trust if options.project is not None else ""])


def uninstall(options: argparse.Namespace) -> int:
    """Shows the change of the client's configuration, asks for confirmation, and writes it."""
    from rlm_mcp.install.clients import find_client
    from rlm_mcp.install.plan import plan_uninstall

    client = find_client(options.client)
    plan = plan_uninstall(client, _config_file(options, client))
    if plan.change == "none":
        return _report(options, plan, f"{client.title} has no entry for rlm-mcp: {plan.file.path}")
    return _ask_and_write(options, plan, [client.remark])


def _ask_and_write(options: argparse.Namespace, plan: "Plan", hints: Sequence[str]) -> int:
    from rlm_mcp.install.plan import apply_plan

    if not options.json:
        print(escape_controls(plan.diff), end="")
        for note in plan.notes:
            print(escape_controls(note), file=sys.stderr)
    if not options.yes and not _confirm(options):
        return _report(options, plan, "nothing was written", status=FAILED)
    kept = apply_plan(plan)
    if plan.change in {"add", "update"}:
        with suppress(SettingsError):  # which the server tells when it starts
            prepare_first_answers(settings_from(options))
    message = f"{plan.file.target} was {'removed' if plan.after is None else 'written'}"
    message += f"; the backup is {kept}" if kept else ""
    return _report(options, plan, "\n".join([message, *filter(None, hints)]), written=True, kept=kept)


def _confirm(options: argparse.Namespace) -> bool:
    if options.json or not sys.stdin.isatty():
        print("rlm-mcp: without a terminal nobody can confirm the change: add --yes to write it", file=sys.stderr)
        return False
    print("Write it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _report(
    options: argparse.Namespace,
    plan: "Plan",
    message: str,
    *,
    status: int = ANSWERED,
    written: bool = False,
    kept: Path | None = None,
) -> int:
    if not options.json:
        print(escape_controls(message), file=sys.stderr)
        return status
    print_json(
        {
            "client": plan.client.name,
            "path": str(plan.file.path),
            "target": str(plan.file.target),
            "change": plan.change,
            "written": written,
            "backup": None if kept is None else str(kept),
            "diff": plan.diff,
            "notes": list(plan.notes),
        }
    )
    return status


def _config_file(options: argparse.Namespace, client: "Client") -> "ConfigFile":
    from rlm_mcp.install.config_file import find_config_path, read_config

    if options.config is not None:
        return read_config(Path(options.config).expanduser())
    if options.project is None:
        return read_config(find_config_path(client.config_paths(current_user_folders())))
    folder = Path(options.project).expanduser()
    if not client.project:
        raise SettingsError(f"{client.title} has no configuration for a single project: leave out --project")
    if not folder.is_dir():
        raise SettingsError(f"--project {folder} is not a directory: give the directory of the project")
    return read_config(folder / client.project)


def _unseen_variables(options: argparse.Namespace, entry: "Entry") -> list[str]:
    """A hint about variables of this shell that a program started from the desktop does not have."""
    sources = load_settings({name: getattr(options, name, None) for name in SETTING_FLAGS}).sources.values()
    unseen = [name for name in sources if name.isupper() and " " not in name and name not in entry.env]
    if not unseen:
        return []
    names, (verb, pronoun) = ", ".join(sorted(unseen)), ("are", "them") if len(unseen) > 1 else ("is", "it")
    hint = (
        f"{names} {verb} set in this shell only, so programs started from the desktop do not have {pronoun}: put"
        f" settings into {config_path()}, or add --env NAME to write a variable into the client's file."
    )
    return [hint]


def _print_entry(client: "Client | None", entry: "Entry") -> int:
    from rlm_mcp.install.clients import NAME, standard_entry
    from rlm_mcp.install.entry import set_entry

    if client is None:
        print(json.dumps({"mcpServers": {NAME: standard_entry(entry)}}, indent=2))
        return ANSWERED
    print(set_entry("", client, client.new_entry(entry)), end="")
    return ANSWERED


def _list_clients(options: argparse.Namespace, entry: "Entry") -> int:
    from rlm_mcp.install.state import client_states

    states = client_states(current_user_folders(), entry)
    if options.json:
        print_json(
            [{"client": s.client.name, "path": str(s.path), "state": s.state, "detail": s.detail} for s in states]
        )
        return ANSWERED
    for state in states:
        print(escape_controls(f"{state.client.name:<16} {state.detail or state.state:<40} {state.path}"))
    print("`rlm-mcp install CLIENT` adds this server; for any other client, --print shows the entry.", file=sys.stderr)
    return ANSWERED
