"""Which file may import which: a package imports only from packages below it, and `wasm_runtime` knows no `rlm_mcp`.

Imports inside functions, which keep the start of the process fast, and imports for type checkers count like all others.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A package imports only from packages further down; names on one line are packages that know nothing of each other.
ORDER: dict[str, list[str]] = {
    "rlm_mcp": [
        "cli",
        "server",
        "cluster",  # implements what the workspace names, which knows nothing of it
        "workspace",
        "engine",
        "repl models viewer install",
        "contexts records packages",
        "settings",
        "bucket_address concurrency redact spending",
        "errors files version",
    ],
    "wasm_runtime": [
        "build",
        "runtime",
        "session",
        "distributed",
        "foresight parallel guest_machine",
        "shared",
        "linking snapshot",
        "imports",
        "compile_cache",
        "vfs machine channel",
        "submitted_calls",
        "budget capture deadlines limits pending_calls queued_calls results image",
        "errno errors held_bytes json_parts places priority",
    ],
}
FOREIGN_TO_THE_SANDBOX = ("rlm_mcp", "mcp", "anyio", "openai", "pydantic", "httpx", "starlette")
# The only files that import `wasm_runtime`: the REPL over it, the workspace, which loads it, and doctor, which tests it
USERS_OF_THE_SANDBOX = {
    "rlm_mcp.repl.sandbox",
    "rlm_mcp.repl.session",
    "rlm_mcp.repl.host_calls",
    "rlm_mcp.repl.process_shares",
    "rlm_mcp.repl.threads",
    "rlm_mcp.workspace.workspace",
    "rlm_mcp.cli.doctor",
    "rlm_mcp.packages.library",
    "rlm_mcp.packages.resolver",
}
# No setting is read there: git gets the environment of this process less what could redirect it, and some MCP clients
# keep their configuration where a variable says.
READERS_OF_THE_ENVIRONMENT = {
    "rlm_mcp.settings.loading",
    "rlm_mcp.contexts.sources.clone",  # the agent of ssh and the authorities' certificates, for git
    "rlm_mcp.install.user_folders",
    "rlm_mcp.server.workers.front",  # the proxies and collectors to which workers may connect
    "rlm_mcp.server.workers.process",  # sets a directory for temporary files
}
NEVER = ("utils", "helpers", "common", "misc", "manager", "service")

Module = str


@cache
def modules(package: str) -> dict[Module, Path]:
    files = [f for f in (ROOT / package).rglob("*.py") if "guest" not in f.relative_to(ROOT).parts]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


@cache
def parsed(file: Path) -> ast.Module:
    """Every test looks at the same files."""
    return ast.parse(file.read_text())


@cache
def imports(file: Path) -> Sequence[tuple[str, list[str], int]]:
    """(module, names taken from it, line) of every import: at module level, in functions and for type checkers."""
    found: list[tuple[str, list[str], int]] = []
    for node in ast.walk(parsed(file)):
        match node:
            case ast.Import():
                found += ((alias.name, [], node.lineno) for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                found.append((module, [alias.name for alias in node.names], node.lineno))
    return found


def edges(package: str) -> Iterator[tuple[Module, Module, str]]:
    """(importing module, imported module of the same package, where it stands)."""
    known = modules(package)
    for module, file in known.items():
        for target, names, line in imports(file):
            if target.split(".")[0] != package:
                continue
            found = {name for name in (f"{target}.{name}" for name in names) if name in known}
            for imported in found or {target}:
                yield module, imported, f"{file.relative_to(ROOT)}:{line}"


def part_of(module: Module) -> str:
    """The package, or the file beside the packages, that a module is or lies in; empty for the face of all."""
    return module.split(".")[1] if "." in module else ""


def rank_of(module: Module) -> int | None:
    """The line of ORDER that names the module's part: 0 is the top."""
    lines = ORDER[module.split(".")[0]]
    return next((rank for rank, line in enumerate(lines) if part_of(module) in line.split()), None)


@pytest.mark.parametrize("package", ORDER)
def test_every_file_belongs_to_a_part_that_has_a_place_in_the_order(package: str) -> None:
    homeless = [module for module in modules(package) if part_of(module) and rank_of(module) is None]
    assert homeless == [], f"{homeless[0]} has no place in ORDER: put it into a package"


def test_the_server_has_at_most_eight_files_of_its_own() -> None:
    assert len(list((ROOT / "rlm_mcp").glob("*.py"))) <= 8


@pytest.mark.parametrize("package", ORDER)
def test_a_part_imports_only_from_parts_below_it(package: str) -> None:
    complaints = []
    for module, imported, place in edges(package):
        if not part_of(module) or part_of(module) == part_of(imported):
            continue
        own, other = rank_of(module), rank_of(imported)
        if own is None or other is None or other <= own:
            complaints.append(f"{place}: {module} imports {imported or package}, which is not below it")
    assert complaints == [], "\n".join(complaints)


@pytest.mark.parametrize("package", ORDER)
def test_no_two_files_import_each_other_even_indirectly(package: str) -> None:
    graph: dict[Module, set[Module]] = {module: set() for module in modules(package)}
    for module, imported, _ in edges(package):
        if imported != module:
            graph[module].add(imported)
    while leaves := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, f"these files import each other in a circle, or need one that does: {sorted(graph)}"


def test_the_sandbox_imports_nothing_of_the_server_and_little_else() -> None:
    complaints = []
    for module, file in modules("wasm_runtime").items():
        for target, _, line in imports(file):
            top = target.split(".")[0]
            if top in FOREIGN_TO_THE_SANDBOX:
                complaints.append(f"{file.relative_to(ROOT)}:{line}: {module} imports {target}: it has to work without")
            elif top not in {"wasm_runtime", "wasmtime", "zstandard"} and top not in sys.stdlib_module_names:
                complaints.append(
                    f"{file.relative_to(ROOT)}:{line}: {module} imports {target}, which is not its dependency"
                )
    assert complaints == [], "\n".join(complaints)


def test_few_files_of_the_server_know_the_sandbox() -> None:
    complaints = []
    for module, file in modules("rlm_mcp").items():
        for target, _, line in imports(file):
            if target.split(".")[0] == "wasm_runtime" and module not in USERS_OF_THE_SANDBOX:
                complaints.append(f"{file.relative_to(ROOT)}:{line}: {module} imports {target}: ask repl or workspace")
    assert complaints == [], "\n".join(complaints)


def test_only_one_file_imports_openai_and_settings_read_the_environment() -> None:
    openai, environment = set(), set()
    for module, file in modules("rlm_mcp").items():
        tree = parsed(file)
        if any(target.split(".")[0] == "openai" for target, _, _ in imports(file)):
            openai.add(module)
        if any(isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"} for node in ast.walk(tree)):
            environment.add(module)
    assert openai <= {"rlm_mcp.models.sender"}
    assert environment <= READERS_OF_THE_ENVIRONMENT


@pytest.mark.parametrize("package", ORDER)
def test_no_file_is_named_after_nothing(package: str) -> None:
    assert [name for name in modules(package) if name.rpartition(".")[2] in NEVER] == []


@pytest.mark.parametrize("package", ORDER)
def test_no_class_is_a_manager_or_a_service(package: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for file in modules(package).values()
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Manager", "Service", "Helper", "Utils"))
    ]
    assert found == []


def test_a_type_name_stands_for_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for file in [file for package in ORDER for file in (ROOT / package).rglob("*.py")]:
        for name, line in type_names(parsed(file)):
            places.setdefault(name, []).append(f"{file.relative_to(ROOT)}:{line}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def type_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(name without leading underscores, line) of every class, and of every type alias or variable of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name.lstrip("_"), node.lineno
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) if re.match(r"_*[A-Z]\w*[a-z]", name):
                yield name.lstrip("_"), statement.lineno


SUPPRESSED = re.compile(r"# ?(?:noqa|type: ?ignore)\b(?:: [A-Z]+\d+(?:, [A-Z]+\d+)*|\[[\w, -]+\])?(.*)")


@pytest.mark.parametrize("folder", [*ORDER, "benchmarks", "bundle", "docs", "tests"])
def test_each_suppressed_warning_has_its_reason_beside_it(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            for found in SUPPRESSED.finditer(line):
                assert re.search(r"[a-z]{3}", found[1]), f"{file.relative_to(ROOT)}:{number} does not say why"


@pytest.mark.parametrize("package", ORDER)
def test_guest_code_is_in_files_of_its_own_and_imports_no_host_module(package: str) -> None:
    files = [file for file in (ROOT / package).rglob("*.py") if "guest" in file.relative_to(ROOT).parts]
    assert files
    for file in files:
        for target, _, line in imports(file):
            place = f"{file.relative_to(ROOT)}:{line}"
            assert target.split(".")[0] not in {"wasm_runtime", "rlm_mcp", "mcp", "anyio"}, f"{place} imports {target}"


def test_importing_the_sandbox_loads_no_server_library() -> None:
    code = f"import sys, wasm_runtime; print([m for m in {FOREIGN_TO_THE_SANDBOX!r} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)  # noqa: S603 - a fixed command
    assert shown.stdout.strip() == "[]"
