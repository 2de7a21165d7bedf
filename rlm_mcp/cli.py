"""The command line: `rlm-mcp` serves stdio; every other command does one thing, prints it and ends.

Answers and results go to stdout, everything else to stderr. Exit status: 0 answered, 1 failed, 2 wrong usage,
3 stopped by a limit with a partial answer. Heavy modules are imported by the command that needs them, so that a server
answers its first request in under two seconds.
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import anyio

from rlm_mcp import __version__
from rlm_mcp.errors import NoModelConfigured, RlmError, SettingsError
from rlm_mcp.terminal import harmless

if TYPE_CHECKING:
    from rlm_mcp.contexts.context import Context
    from rlm_mcp.runs import RunState
    from rlm_mcp.settings import Settings
    from rlm_mcp.workspace import Workspace

ANSWERED, FAILED, USAGE, PARTIAL = 0, 1, 2, 3

SETTING_FLAGS = ("model", "sub_model", "base_url", "data_dir", "cache_dir", "roots", "quota_bytes", "prices")
LIMIT_FLAGS = ("max_usd", "max_tokens", "max_sub_calls", "max_seconds", "max_iterations", "max_depth")

Command = Callable[[argparse.Namespace, "Workspace"], Coroutine[Any, Any, int]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    options = _parser().parse_args(argv)
    try:
        status = _run(options)
        print(end="", flush=True)
    except BrokenPipeError:
        return _nobody_reads()
    except RlmError as error:
        return _complain(error)
    except KeyboardInterrupt:
        print("rlm-mcp: interrupted", file=sys.stderr)
        return FAILED
    return status


def _run(options: argparse.Namespace) -> int:
    if options.command == "serve":
        return _serve(options)
    if options.command == "token":
        return _token(options)
    if options.command == "doctor":
        return anyio.run(_doctor, options)
    return anyio.run(_in_workspace, options)


def _nobody_reads() -> int:
    """What `| head` does: the reader has enough. What is still buffered goes nowhere, else Python complains at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    return ANSWERED


def _complain(error: RlmError) -> int:
    print(f"rlm-mcp: {harmless(str(error))}", file=sys.stderr)
    return USAGE if isinstance(error, SettingsError) and not isinstance(error, NoModelConfigured) else FAILED


def _settings(options: argparse.Namespace) -> "Settings":
    from rlm_mcp.settings import load_settings

    given = vars(options)
    settings = load_settings({name: given.get(name) for name in (*SETTING_FLAGS, *LIMIT_FLAGS)})
    for warning in settings.warnings:
        print(f"rlm-mcp: {warning}", file=sys.stderr)
    return settings


def _serve(options: argparse.Namespace) -> int:
    settings = _settings(options)
    if options.http:
        from rlm_mcp.http import serve_http

        serve_http(
            settings,
            options.http,
            token_file=options.token_file,
            oauth_issuer=options.oauth_issuer,
            oauth_resource=options.oauth_resource,
            allowed_hosts=tuple(options.allow_host),
        )
        return ANSWERED
    from rlm_mcp.settings import local_roots
    from rlm_mcp.stdio import serve_stdio
    from rlm_mcp.workspace import open_workspace

    if settings.roots is None:  # paths are named by the client's model here, and by the user in every other command
        settings = replace(settings, roots=local_roots())
    serve_stdio(lambda: open_workspace(settings, warm=True))
    return ANSWERED


def _token(options: argparse.Namespace) -> int:
    from rlm_mcp.tokens import digest_of, new_token

    token = new_token()
    print(f"{options.name} {digest_of(token)}")
    print(f"The line above belongs into the token file. The token, which is shown only now: {token}", file=sys.stderr)
    return ANSWERED


async def _doctor(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from rlm_mcp.doctor import examine

    def tell(text: str) -> None:
        print(f"  {text}", file=sys.stderr)

    checks = []
    async for check in examine(_settings(options), warm=options.warm, on_progress=tell):
        checks.append(check)
        if not options.json:
            remedy = f"\n         {check.remedy}" if check.remedy else ""
            print(harmless(f"{check.status:<8} {check.name}: {check.detail}{remedy}"))
    if options.json:
        _print_json([asdict(check) for check in checks])
    return FAILED if any(check.status == "failure" for check in checks) else ANSWERED


async def _in_workspace(options: argparse.Namespace) -> int:
    from rlm_mcp.workspace import open_workspace

    settings = _settings(options)
    with TemporaryDirectory() as scratch:
        if options.run is _demo:  # leaves nothing among the user's own contexts
            settings = replace(settings, data_dir=Path(scratch))
        async with open_workspace(settings) as workspace:
            run: Command = options.run
            return await run(options, workspace)


# --- commands


async def _solve(options: argparse.Namespace, workspace: "Workspace") -> int:
    from rlm_mcp.launch import SolveRequest

    contexts = [await workspace.find_or_register(source) for source in options.source]
    schema = None if options.schema is None else _json_argument(options.schema)
    request = SolveRequest(
        query=options.query,
        contexts=tuple(context.context_id for context in contexts),
        mode=options.mode,
        output_schema=schema,
        **{name: getattr(options, name) for name in LIMIT_FLAGS},
    )
    return await _watch(options, workspace, await workspace.start(request))


async def _watch(options: argparse.Namespace, workspace: "Workspace", run_id: str) -> int:
    """Follows a run to its end and prints it."""
    print(f"{run_id} started", file=sys.stderr)
    async for progress in workspace.follow(run_id):
        if not options.quiet:
            print(f"  {progress}", file=sys.stderr)
    state = await workspace.state(run_id)
    _show_run(options, workspace, state)
    return _status(state)


async def _inspect(options: argparse.Namespace, workspace: "Workspace") -> int:
    from rlm_mcp import views

    context = await workspace.find_or_register(options.source)
    if options.code is not None:
        code = sys.stdin.read() if options.code == "-" else options.code
        cell = await workspace.run_code(context, code, seconds=options.seconds)
        _show(options, views.code_result(context, cell).structured_content)
        return ANSWERED if cell.error is None else FAILED
    if options.search is not None:
        found = await workspace.search(
            context, options.search, path=options.path, max_matches=options.max, context_lines=0
        )
        _show(options, views.search_result(context, found).structured_content)
        return ANSWERED if found.total else FAILED
    if options.lines is not None:
        first, last = _line_range(options.lines)
        lines = await workspace.read(context, first, last, options.path)
        _show(options, views.read_result(context, lines).structured_content)
        return ANSWERED
    _show(options, views.overview_result(context, await workspace.overview(context)).structured_content)
    return ANSWERED


async def _contexts_list(options: argparse.Namespace, workspace: "Workspace") -> int:
    contexts = await workspace.all_contexts()
    if options.json:
        _print_json([_context_facts(context) for context in contexts])
    for context in [] if options.json else contexts:
        size = f"{context.chars:>12,} chars {context.lines:>9,} lines"
        print(harmless(f"{context.context_id}  {size}  {context.name}  ({context.source})"))
    return ANSWERED


async def _contexts_add(options: argparse.Namespace, workspace: "Workspace") -> int:
    context = await workspace.register(source=options.source, name=options.name)
    _show(options, _context_facts(context))
    return await _contexts_watch(options, workspace, context) if options.watch else ANSWERED


async def _contexts_watch(options: argparse.Namespace, workspace: "Workspace", context: "Context") -> int:
    """Shows every new version of a source until SIGINT or SIGTERM."""
    stop = threading.Event()

    def tell(latest: "Context") -> None:
        _show(options, _context_facts(latest))
        sys.stdout.flush()

    def complain(error: RlmError) -> None:
        _complain(error)

    async def stop_on_signal() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                stop.set()

    sys.stdout.flush()
    print(f"watching {harmless(context.source)} until Ctrl-C", file=sys.stderr)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_on_signal)
            await workspace.watch(context, stop=stop, on_version=tell, on_trouble=complain)
            tasks.cancel_scope.cancel()
    except* (RlmError, BrokenPipeError) as group:
        raise group.exceptions[0] from None
    return ANSWERED


async def _contexts_refresh(options: argparse.Namespace, workspace: "Workspace") -> int:
    _show(options, _context_facts(await workspace.refresh(options.name)))
    return ANSWERED


async def _contexts_gc(options: argparse.Namespace, workspace: "Workspace") -> int:
    from dataclasses import asdict

    _show(options, asdict(await workspace.collect()))
    return ANSWERED


async def _contexts_rm(options: argparse.Namespace, workspace: "Workspace") -> int:
    _show(options, _context_facts(await workspace.remove(options.name)))
    return ANSWERED


async def _runs_list(options: argparse.Namespace, workspace: "Workspace") -> int:
    runs = (await workspace.list_runs(limit=options.limit)).runs
    if options.json:
        _print_json([_run_facts(workspace, run) for run in runs])
    for run in [] if options.json else runs:
        print(harmless(f"{run.run_id}  {run.created_at[:19]}  {run.status:<9}  {run.query[:90]}"))
    return ANSWERED


async def _runs_show(options: argparse.Namespace, workspace: "Workspace") -> int:
    state = await workspace.state(options.id)
    _show_run(options, workspace, state)
    return _status(state)


async def _runs_resume(options: argparse.Namespace, workspace: "Workspace") -> int:
    return await _watch(options, workspace, await workspace.resume(options.id))


async def _runs_replay(options: argparse.Namespace, workspace: "Workspace") -> int:
    from rlm_mcp.demo import Teller

    tell = Teller(sys.stdout if not options.json else sys.stderr)
    outcome, difference = await workspace.replay(options.id, tell.event)
    if options.json:
        _print_json({"answer": outcome.answer, "status": outcome.status, "difference": difference})
    print(f"replayed; {'the same as the record' if difference is None else difference}", file=sys.stderr)
    return ANSWERED if difference is None else FAILED


async def _runs_export(options: argparse.Namespace, workspace: "Workspace") -> int:
    sys.stdout.write(await workspace.trace(options.id))
    return ANSWERED


async def _demo(options: argparse.Namespace, workspace: "Workspace") -> int:
    from rlm_mcp.demo import play_demo

    return ANSWERED if await play_demo(workspace, sys.stdout, as_json=options.json) else FAILED


# --- what is printed


def _show_run(options: argparse.Namespace, workspace: "Workspace", state: "RunState") -> None:
    facts = _run_facts(workspace, state)
    if options.json:
        _print_json(facts)
        return
    answer = facts.pop("answer")
    if answer is not None:
        print(harmless(answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, indent=1)))
    from rlm_mcp.wire import compact

    print(harmless(compact(facts)), file=sys.stderr)


def _run_facts(workspace: "Workspace", state: "RunState") -> dict[str, Any]:
    from rlm_mcp.views import run_result

    facts = run_result(state, uri=workspace.run_uri(state.run_id)).model_dump()
    return facts | {"answer": state.answer, "truncated": False}


def _context_facts(context: "Context") -> dict[str, Any]:
    from rlm_mcp.views import context_result

    return context_result(context).model_dump()


def _show(options: argparse.Namespace, facts: dict[str, Any]) -> None:
    if options.json:
        _print_json(facts)
        return
    from rlm_mcp.wire import compact

    print(harmless(compact(facts)))


def _print_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=True, indent=1, default=str))


# --- what is asked


def _status(state: "RunState") -> int:
    if state.status == "completed" and state.stopped_by == "final":
        return ANSWERED
    if state.answer is not None and state.stopped_by in {"iterations", "usd", "tokens", "sub_calls", "seconds"}:
        return PARTIAL
    return ANSWERED if state.status == "completed" else FAILED


def _line_range(text: str) -> tuple[int, int | None]:
    first, _, last = text.partition("-")
    try:
        return int(first), int(last) if last else None
    except ValueError as error:
        raise SettingsError(f"--lines {text!r} is no range: write --lines 100-200") from error


def _json_argument(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"--schema is not JSON ({error}): pass a JSON Schema") from error
    if not isinstance(value, dict):
        raise SettingsError("--schema is not an object: pass a JSON Schema")
    return value


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--json", action="store_true", help="the structured result on stdout")
    common.add_argument("--quiet", action="store_true", help="no progress on stderr")
    for name in SETTING_FLAGS:
        common.add_argument(f"--{name.replace('_', '-')}", help=argparse.SUPPRESS if name == "prices" else None)

    parser = argparse.ArgumentParser(prog="rlm-mcp", description=__doc__, parents=[common])
    parser.set_defaults(command="serve", http=None, json=False, quiet=False)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, run: Command | None, text: str, under: Any = commands) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = under.add_parser(name, help=text, description=text, parents=[common])
        made.set_defaults(command=name if run is None else "", run=run)
        return made

    serve = command("serve", None, "serve MCP on stdio, or over HTTP")
    serve.add_argument("--http", metavar="HOST:PORT", help="streamable HTTP instead of stdio")
    serve.add_argument("--token-file", metavar="FILE", help="who may come in over HTTP, one NAME SHA256 a line")
    serve.add_argument("--oauth-issuer", metavar="URL", help="take access tokens (JWT) of this authorization server")
    serve.add_argument("--oauth-resource", metavar="URL", help="what they must be issued for; our own URL if not given")
    serve.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a Host header to accept")

    solve = command("solve", _solve, "answer a question over files, directories or registered contexts")
    solve.add_argument("query")
    solve.add_argument("source", nargs="+")
    solve.add_argument("--mode", choices=["auto", "direct", "rlm"], default="auto")
    solve.add_argument("--schema", help="JSON Schema of the answer")
    for name in LIMIT_FLAGS:
        number = float if name in {"max_usd", "max_seconds"} else int
        solve.add_argument(f"--{name.replace('_', '-')}", type=number)

    inspect = command("inspect", _inspect, "look into a file, directory or registered context")
    inspect.add_argument("source")
    view = inspect.add_mutually_exclusive_group()
    view.add_argument("--code", help="Python to run in the sandbox, - for stdin")
    view.add_argument("--search", help="regular expression")
    view.add_argument("--lines", metavar="A-B")
    inspect.add_argument("--path", help="one file of the context")
    inspect.add_argument("--max", type=int, default=20, help="matches shown")
    inspect.add_argument("--seconds", type=float, default=30.0, help="time for --code")

    contexts = command("contexts", _contexts_list, "registered contexts").add_subparsers(metavar="WHAT")
    command("list", _contexts_list, "list them", contexts)
    add = command("add", _contexts_add, "register a source", contexts)
    add.add_argument("source")
    add.add_argument("--name")
    add.add_argument("--watch", action="store_true", help="register new versions as the source changes, until Ctrl-C")
    command("refresh", _contexts_refresh, "register its source as it is now", contexts).add_argument("name")
    command("rm", _contexts_rm, "forget one", contexts).add_argument("name")
    command("gc", _contexts_gc, "free old versions that no run is about, and what nothing uses", contexts)

    of_runs = command("runs", _runs_list, "runs on record")
    of_runs.set_defaults(limit=20)
    runs = of_runs.add_subparsers(metavar="WHAT")
    command("list", _runs_list, "list them", runs).add_argument("--limit", type=int, default=20)
    for name, run, text in (
        ("show", _runs_show, "its answer, citations and usage"),
        ("resume", _runs_resume, "go on with a run that was cut off"),
        ("replay", _runs_replay, "execute its code again with the recorded model replies"),
        ("export", _runs_export, "its record, one JSON object a line"),
    ):
        command(name, run, text, runs).add_argument("id")

    token = commands.add_parser("token", help="make a bearer token for serve --http", parents=[common])
    token.add_argument("name", help="whose contexts and runs it opens")
    token.set_defaults(command="token")

    doctor = commands.add_parser("doctor", help="check this machine, the sandbox and the model", parents=[common])
    doctor.add_argument("--warm", action="store_true", help="compile the sandbox now, where it is not compiled yet")
    doctor.set_defaults(command="doctor")

    command("demo", _demo, "replay a recorded run over a log that ships with rlm-mcp")
    return parser


if __name__ == "__main__":
    sys.exit(main())
