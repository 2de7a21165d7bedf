"""Every place that parses what a tenant, a file, a provider or a model made has a bound.

The table names each file that calls a parser, what it reads there, and the constant that bounds it. Regular expressions
are not listed: `tests/benchmarks/test_patterns.py` measures all of them.
"""

import ast
import importlib
from pathlib import Path

import pytest

import rlm_mcp
import wasm_runtime

_PARSERS = {
    "ast": {"walk", "literal_eval", "parse"},
    "bz2": {"BZ2File", "BZ2Decompressor"},
    "csv": {"reader", "DictReader"},
    "gzip": {"GzipFile"},
    "json": {"loads", "load", "JSONDecoder"},
    "lzma": {"LZMAFile", "LZMADecompressor"},
    "tarfile": {"open", "TarFile"},
    "tomllib": {"loads", "load"},
    "zipfile": {"ZipFile"},
    "zlib": {"decompressobj", "decompress"},
    "zstandard": {"ZstdDecompressor"},
}
# Functions by whose name alone they are known: of Python, and ours for globs and for libraries that read documents.
_PARSING_FUNCTIONS = {"compile", "glob_regex", "import_parser"}
# Modules whose import alone means parsing.
_PARSING_MODULES = ("email.parser", "html.parser", "xml", "ruamel", "jsonschema")

OURS = "own files"  # written by this program or the user, on this machine
BOUNDS: dict[str, str] = {
    "rlm_mcp/cli/demo_data/support.py": OURS,  # the messages of customers that come with the demo
    "rlm_mcp/workspace/chat_examples.py": OURS,  # the scores that the user names
    "rlm_mcp/cli/commands/solving.py": OURS,  # the schema that the user names
    "rlm_mcp/cli/doctor.py": "rlm_mcp.models.sender:MOST_BODY_BYTES",
    "rlm_mcp/cluster/catalogue.py": OURS,
    "rlm_mcp/cluster/maps.py": "rlm_mcp.cluster.maps:MOST_OUTCOME_BYTES",
    "rlm_mcp/cluster/runs.py": OURS,
    "rlm_mcp/contexts/describe/tables.py": "rlm_mcp.contexts.describe.text_sample:WHOLE_BYTES",
    "rlm_mcp/contexts/sources/archive.py": "rlm_mcp.contexts.sources.archive:MAX_HEADER_BYTES",
    "rlm_mcp/contexts/sources/compressed.py": "rlm_mcp.contexts.sources.compressed:MAX_RATIO",
    "rlm_mcp/contexts/sources/mail.py": "rlm_mcp.contexts.sources.section:MAX_DOCUMENT_BYTES",
    "rlm_mcp/contexts/sources/notebook.py": "rlm_mcp.contexts.sources.section:MAX_DOCUMENT_BYTES",
    "rlm_mcp/contexts/search.py": "rlm_mcp.contexts.text.globs:MAX_GLOB_CHARS",
    "rlm_mcp/contexts/sources/outlook.py": "rlm_mcp.contexts.sources.section:MAX_DOCUMENT_BYTES",
    "rlm_mcp/contexts/sources/pattern.py": "rlm_mcp.contexts.text.globs:MAX_GLOB_CHARS",
    "rlm_mcp/contexts/sources/pdf.py": "rlm_mcp.contexts.sources.section:MAX_DOCUMENT_BYTES",
    "rlm_mcp/contexts/sources/rtf.py": "rlm_mcp.contexts.sources.section:MAX_DOCUMENT_BYTES",
    "rlm_mcp/contexts/sources/slides.py": "rlm_mcp.contexts.sources.package:MAX_TREE_BYTES",
    "rlm_mcp/contexts/sources/spreadsheet.py": "rlm_mcp.contexts.sources.section:MAX_DOCUMENT_BYTES",
    "rlm_mcp/contexts/sources/word.py": "rlm_mcp.contexts.sources.package:MAX_TREE_BYTES",
    "rlm_mcp/contexts/sources/package.py": "rlm_mcp.contexts.sources.package:MAX_TREE_BYTES",
    "rlm_mcp/contexts/sources/paragraphs.py": "rlm_mcp.contexts.sources.package:MAX_TREE_BYTES",
    "rlm_mcp/contexts/store/catalogue.py": OURS,
    "rlm_mcp/contexts/store/references.py": OURS,
    "rlm_mcp/engine/answer_checks.py": "rlm_mcp.models.base:REPLY_MAX_CHARS",
    "rlm_mcp/engine/briefing.py": "rlm_mcp.engine.briefing:_LINE_CHARS",
    "rlm_mcp/engine/coverage.py": "rlm_mcp.models.base:REPLY_MAX_CHARS",
    "rlm_mcp/engine/grounding.py": "rlm_mcp.models.base:REPLY_MAX_CHARS",
    "rlm_mcp/engine/guest_calls.py": "rlm_mcp.repl.guest_functions:ANSWER_CHARS",
    "rlm_mcp/engine/json_schema.py": "rlm_mcp.engine.json_schema:MOST_STEPS",
    "rlm_mcp/engine/judge.py": "rlm_mcp.models.base:REPLY_MAX_CHARS",
    "rlm_mcp/engine/reply_parser.py": "rlm_mcp.models.base:REPLY_MAX_CHARS",
    "rlm_mcp/engine/reply_schema.py": "rlm_mcp.engine.reply_schema:MOST_STARTS",
    "rlm_mcp/install/edit_json.py": OURS,
    "rlm_mcp/install/edit_toml.py": OURS,
    "rlm_mcp/install/edit_yaml.py": OURS,
    "rlm_mcp/models/dialect.py": "rlm_mcp.models.sender:MOST_BODY_BYTES",
    "rlm_mcp/models/discovery.py": OURS,  # at most 4 MiB of a server on this machine
    "rlm_mcp/models/profiles.py": OURS,
    "rlm_mcp/models/reply_body.py": "rlm_mcp.models.sender:MOST_BODY_BYTES",
    "rlm_mcp/models/sender.py": "rlm_mcp.models.sender:MOST_BODY_BYTES",
    "rlm_mcp/packages/library.py": OURS,
    "rlm_mcp/packages/resolver.py": OURS,
    "rlm_mcp/records/lines.py": OURS,
    "rlm_mcp/records/reading.py": OURS,
    "rlm_mcp/records/run.py": OURS,
    "rlm_mcp/records/tape.py": OURS,
    "rlm_mcp/repl/session.py": OURS,
    "rlm_mcp/server/early_answers.py": "rlm_mcp.server.early_answers:MAX_CHARS",
    "rlm_mcp/server/input_rounds.py": OURS,  # a state that the server has signed
    "rlm_mcp/server/prepared_answers.py": OURS,
    "rlm_mcp/server/transports/message_limit.py": "rlm_mcp.server.transports.message_limit:ID_BYTES",
    "rlm_mcp/server/transports/issuer_keys.py": "rlm_mcp.server.transports.issuer_keys:KEYS_MAX_BYTES",
    "rlm_mcp/server/workers/egress.py": "rlm_mcp.server.workers.egress:MOST_BYTES",
    "rlm_mcp/server/workers/open_calls.py": "rlm_mcp.server.workers.open_calls:MOST_READ_BYTES",
    "rlm_mcp/server/workers/worker.py": "rlm_mcp.server.workers.worker:MOST_STATUS_BYTES",
    "rlm_mcp/settings/loading.py": OURS,
    "rlm_mcp/settings/parsers.py": OURS,
    "wasm_runtime/channel.py": "wasm_runtime.channel:MESSAGE_PARTS",
    "wasm_runtime/compile_cache.py": OURS,
    "wasm_runtime/foresight.py": "wasm_runtime.channel:MESSAGE_BYTES",
    "wasm_runtime/pending_calls.py": OURS,  # what was written a moment before
    "wasm_runtime/snapshot.py": "wasm_runtime.snapshot:_LONGEST_HEADER",
    "wasm_runtime/submitted_calls.py": "wasm_runtime.channel:MESSAGE_PARTS",
    "wasm_runtime/vfs/dump.py": "wasm_runtime.snapshot:_LARGEST_MEMORY",
    "wasm_runtime/vfs/site_files.py": OURS,
}


def _parses(path: Path) -> bool:
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name)) if name in _PARSERS.get(module, ()):
                return True
            case ast.Call(func=ast.Name(id=function)) if function in _PARSING_FUNCTIONS:
                return True
            case ast.ImportFrom(module=str(module)) if module.startswith(_PARSING_MODULES):
                return True
            case ast.Import(names=names) if any(alias.name.startswith(_PARSING_MODULES) for alias in names):
                return True
    return False


def test_every_file_that_parses_is_listed_with_what_bounds_it() -> None:
    roots = [Path(package.__path__[0]) for package in (rlm_mcp, wasm_runtime)]
    files = {path.relative_to(root.parent) for root in roots for path in root.rglob("*.py")}
    host = {path for path in files if not {"guest", "build"} & set(path.parts)}
    assert {path.as_posix() for path in host if _parses(roots[0].parent / path)} == set(BOUNDS)


@pytest.mark.parametrize("bound", sorted({bound for bound in BOUNDS.values() if bound != OURS}))
def test_bounds_are_numbers(bound: str) -> None:
    module, _, name = bound.partition(":")
    assert getattr(importlib.import_module(module), name) > 0
