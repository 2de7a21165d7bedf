"""Which file may import which: only from lower layers of its own package, and `wasm_runtime` knows no `rlm_mcp`.

Imports for type checkers only are free. Imports inside functions count for the layers, but not for cycles: they are
there to keep the start of the process fast.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom. Within a line, files of one package (contexts, models, vfs calls) may import each other.
LAYERS: dict[str, list[str]] = {
    "wasm_runtime": [
        "errors errno limits results memory devices quota vfs_flags watch capture engine callbacks image imports",
        "channel budget sources descriptors pages interpreter artifacts",
        "crew snapshot vfs_nodes",
        "vfs_tree",
        "vfs_content",
        "vfs_open_tree vfs_dump",
        "vfs_descriptor_calls",
        "vfs_path_calls",
        "vfs",
        "imports.guest",
        "imports.wasi imports.syscalls imports.emscripten",
        "linking",
        "session",
        "runtime",
        "build build.*",
    ],
    "rlm_mcp": [
        """errors spent cells secret terminal progress turns threads changes models models.base replies wire guides logs
        demo_data demo_data.* beside""",
        """clients clients.* contexts contexts.* runs budget prompts shapes replycache tokens oauth arguments grounding
        scripted_repl models.profiles models.limiter models.dialect models.retries models.discovery models.exchange
        models.plainhttp models.failures models.scripted models.sampling tasks memory lanes""",
        "settings models.openai evidence router trajectory desk briefing unfinished",
        "repl subcalls providers calls views",
        "engine doctor",
        "level inspecting viewer viewer.*",
        "algorithm",
        "launch",
        "telemetry",
        "live_runs",
        "workspace",
        "asking library waiting notices resources console console.*",
        "tools run_tasks demo unchanging",
        "server",
        "stdio owners connections",
        "door",
        "http",
        "commands commands.registry commands.streams",
        "commands.output",
        """commands.serving commands.solving commands.inspecting commands.contexts commands.machine commands.clients
        commands.demo""",
        "commands.runs",
        "cli",
    ],
}
FOREIGN_TO_THE_SANDBOX = ("rlm_mcp", "mcp", "anyio", "openai", "pydantic", "httpx", "starlette")
# Only these know that code runs in wasm: the face of a session, the holder of the runtime, and who tells if it works.
USERS_OF_THE_SANDBOX = {"rlm_mcp.repl.sandbox", "rlm_mcp.workspace.workspace", "rlm_mcp.cli.doctor"}
# git is run with the environment of this process, less what could redirect it; no setting is read there.
READERS_OF_THE_ENVIRONMENT = {"rlm_mcp.settings", "rlm_mcp.contexts.sources.git"}
FACES = {"wasm_runtime", "rlm_mcp"}  # the packages' own __init__: on top of everything
NEVER = ("utils", "helpers", "common", "misc", "manager", "service")

Module = str


def modules(package: str) -> dict[Module, Path]:
    files = [f for f in (ROOT / package).rglob("*.py") if "guest" not in f.relative_to(ROOT).parts]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def imports(tree: ast.AST, *, inside_functions: bool) -> Iterator[tuple[str, list[str], int]]:
    """(module, names taken from it, line) of every import that happens when the program runs."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import():
                yield from ((alias.name, [], node.lineno) for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module, [alias.name for alias in node.names], node.lineno
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.FunctionDef() | ast.AsyncFunctionDef() if not inside_functions:
                continue
            case _:
                yield from imports(node, inside_functions=inside_functions)


def edges(package: str, *, inside_functions: bool) -> Iterator[tuple[Module, Module, str]]:
    """(importing module, imported module of the same package, where it stands)."""
    known = modules(package)
    for module, file in known.items():
        for target, names, line in imports(ast.parse(file.read_text()), inside_functions=inside_functions):
            if target.split(".")[0] != package or (target in FACES and names == ["__version__"]):
                continue
            found = {name for name in (f"{target}.{name}" for name in names) if name in known}
            for imported in found or {target}:
                yield module, imported, f"{file.relative_to(ROOT)}:{line}"


def layer_of(module: Module) -> int | None:
    package, _, name = module.partition(".")
    if not name:
        return len(LAYERS[package])
    for number, line in enumerate(LAYERS[package]):
        for entry in line.split():
            if entry == name or (entry.endswith(".*") and name.startswith(entry[:-1])):
                return number
    return None


def packages_meet(one: Module, other: Module) -> bool:
    """Whether both lie in the same package below the top, as files of contexts/ and of models/ do."""
    return one.count(".") > 1 and one.split(".")[:2] == other.split(".")[:2]


@pytest.mark.parametrize("package", LAYERS)
def test_every_file_has_a_layer(package: str) -> None:
    homeless = [module for module in modules(package) if layer_of(module) is None]
    assert homeless == [], (
        f"{homeless[0]} is in no layer: add it to LAYERS in tests/test_structure.py, above all it imports"
    )


@pytest.mark.parametrize("package", LAYERS)
def test_files_import_from_lower_layers_only(package: str) -> None:
    complaints = []
    for module, imported, place in edges(package, inside_functions=True):
        own, other = layer_of(module), layer_of(imported)
        if own is None or other is None or other < own or (own == other and packages_meet(module, imported)):
            continue
        complaints.append(f"{place}: {module} (layer {own}) imports {imported} (layer {other}), which is not below it")
    assert complaints == [], "\n".join(complaints)


@pytest.mark.parametrize("package", LAYERS)
def test_there_are_no_import_cycles(package: str) -> None:
    graph: dict[Module, set[Module]] = {module: set() for module in modules(package)}
    for module, imported, _ in edges(package, inside_functions=False):
        if imported != module:
            graph[module].add(imported)
    while leaves := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, f"these files import each other in a circle, or need one that does: {sorted(graph)}"


def test_the_sandbox_imports_nothing_of_the_server_and_little_else() -> None:
    complaints = []
    for module, file in modules("wasm_runtime").items():
        for target, _, line in imports(ast.parse(file.read_text()), inside_functions=True):
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
        for target, _, line in imports(ast.parse(file.read_text()), inside_functions=True):
            if target.split(".")[0] == "wasm_runtime" and module not in USERS_OF_THE_SANDBOX:
                complaints.append(f"{file.relative_to(ROOT)}:{line}: {module} imports {target}: ask repl or workspace")
    assert complaints == [], "\n".join(complaints)


def test_only_one_file_imports_openai_and_settings_read_the_environment() -> None:
    openai, environment = set(), set()
    for module, file in modules("rlm_mcp").items():
        tree = ast.parse(file.read_text())
        if any(target.split(".")[0] == "openai" for target, _, _ in imports(tree, inside_functions=True)):
            openai.add(module)
        if any(isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"} for node in ast.walk(tree)):
            environment.add(module)
    assert openai <= {"rlm_mcp.models.openai"}
    assert environment <= READERS_OF_THE_ENVIRONMENT


@pytest.mark.parametrize("package", LAYERS)
def test_no_file_is_named_after_nothing(package: str) -> None:
    assert [name for name in modules(package) if name.rpartition(".")[2] in NEVER] == []


@pytest.mark.parametrize("package", LAYERS)
def test_no_class_is_a_manager_or_a_service(package: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for file in modules(package).values()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Manager", "Service", "Helper", "Utils"))
    ]
    assert found == []


@pytest.mark.parametrize("package", LAYERS)
def test_guest_code_is_in_files_of_its_own_and_imports_no_host_module(package: str) -> None:
    for file in (ROOT / package / "guest").rglob("*.py"):
        for target, _, line in imports(ast.parse(file.read_text()), inside_functions=True):
            place = f"{file.relative_to(ROOT)}:{line}"
            assert target.split(".")[0] not in {"wasm_runtime", "rlm_mcp", "mcp", "anyio"}, f"{place} imports {target}"


def test_importing_the_sandbox_loads_no_server_library() -> None:
    code = f"import sys, wasm_runtime; print([m for m in {FOREIGN_TO_THE_SANDBOX!r} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)  # noqa: S603 - a fixed command
    assert shown.stdout.strip() == "[]"
