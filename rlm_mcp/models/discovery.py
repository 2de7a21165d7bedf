"""Finds OpenAI-compatible servers on this machine, and asks a local server what it knows about a model.

Uses only the standard library, and only local addresses: a provider on the internet is never probed. A process without
a network of its own passes `connections`; servers with TLS are not asked then. A server that is
absent, slow or does not speak HTTP counts as absent and raises nothing. The functions block; call them on a worker
thread.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rlm_mcp.models.connections import Connections
from rlm_mcp.models.dialect import believed_window
from rlm_mcp.models.exchange import endpoint_url
from rlm_mcp.models.profiles import is_local

# Default ports, in order of preference.
USUAL_PORTS: Sequence[tuple[str, int]] = (("Ollama", 11434), ("LM Studio", 1234), ("llama.cpp", 8080), ("vLLM", 8000))
# A server on this machine answers within a millisecond; one that takes longer is loading a model and not ready.
FIND_SECONDS = 0.5
ASK_SECONDS = 2.0
# A server that computes on all cores answers late. The window it reports is worth the wait, because without it a model
# is taken for one with a window of 128,000 tokens. A port on which nothing listens costs no time.
FACTS_SECONDS = 20.0
# The window that Ollama gives a model by default, whatever the model allows; it truncates longer prompts silently.
OLLAMA_WINDOW_TOKENS = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalServer:
    """A server that answered, with the models it lists."""

    name: str
    base_url: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts that a server reports about a model; None if it does not."""

    window_tokens: int | None = None
    billions: float | None = None


def find_local_servers(
    ports: Sequence[tuple[str, int]] = USUAL_PORTS,
    *,
    seconds: float = FIND_SECONDS,
    connections: Connections | None = None,
) -> list[LocalServer]:
    """Returns the servers that answer on `ports` with a list of models, in the order of `ports`."""

    def look(name: str, port: int) -> LocalServer | None:
        base_url = f"http://127.0.0.1:{port}/v1"
        models = [
            str(row["id"]) for row in _rows(base_url, seconds, connections) if "embed" not in str(row["id"]).lower()
        ]
        return LocalServer(name=name, base_url=base_url, models=tuple(models)) if models else None

    with ThreadPoolExecutor(max_workers=max(1, len(ports))) as pool:
        found = pool.map(lambda pair: look(*pair), ports)
        return [server for server in found if server is not None]


def served_models(base_url: str, *, connections: Connections | None = None) -> list[str]:
    """Returns the models that a local server lists; none for any other address."""
    return [str(row["id"]) for row in _rows(base_url, ASK_SECONDS, connections)] if is_local(base_url) else []


def facts_of(base_url: str, model: str, *, connections: Connections | None = None) -> Facts:
    """Asks the local server at `base_url` about `model`. A server that answers in another form reports nothing."""
    if not is_local(base_url):
        return Facts()
    try:
        return _reported_facts(base_url, model, connections)
    except (AttributeError, TypeError, LookupError, ValueError, OverflowError):
        return Facts()


def _reported_facts(base_url: str, model: str, connections: Connections | None) -> Facts:
    rows = _rows(base_url, FACTS_SECONDS, connections)
    row = next((row for row in rows if row["id"] == model), rows[0] if len(rows) == 1 else None)
    if row is None:
        return Facts()
    root = base_url.removesuffix("/v1")
    match row.get("owned_by"):
        case "llamacpp":
            settings = _get(f"{root}/props", FACTS_SECONDS, connections).get("default_generation_settings")
            window = settings.get("n_ctx") if isinstance(settings, Mapping) else None
            return Facts(
                window_tokens=believed_window(window), billions=_billions((row.get("meta") or {}).get("n_params"))
            )
        case "library":
            return _ollama(root, model, connections)
        case "organization_owner":
            rows = _get(f"{root}/api/v0/models", FACTS_SECONDS, connections).get("data") or []
            known: Mapping[str, Any] = next((r for r in rows if isinstance(r, Mapping) and r.get("id") == model), {})
            window = known.get("loaded_context_length") or known.get("max_context_length")
            return Facts(window_tokens=believed_window(window))
    names = ("max_model_len", "context_length", "max_context_length", "context_window")
    return Facts(window_tokens=next((believed_window(row[name]) for name in names if row.get(name)), None))


def _ollama(root: str, model: str, connections: Connections | None) -> Facts:
    loaded, listed = (
        [
            row
            for row in _get(f"{root}/api/{what}", FACTS_SECONDS, connections).get("models") or ()
            if row.get("model") == model
        ]
        for what in ("ps", "tags")
    )
    window = believed_window(loaded[0].get("context_length")) if loaded else None
    size = str((listed[0].get("details") or {}).get("parameter_size") or "") if listed else ""
    number = size.removesuffix("B") if size.endswith("B") else ""
    billions = float(number) if number.replace(".", "", 1).isdigit() else None
    return Facts(window_tokens=window or OLLAMA_WINDOW_TOKENS, billions=billions)


def _rows(base_url: str, seconds: float, connections: Connections | None) -> list[Mapping[str, Any]]:
    rows = _get(endpoint_url(base_url, "/models"), seconds, connections).get("data")
    return [row for row in rows if isinstance(row, Mapping) and "id" in row] if isinstance(rows, list) else []


def _get(url: str, seconds: float, connections: Connections | None) -> Mapping[str, Any]:
    """Returns the JSON object at `url`, an empty one if there is none."""
    from http.client import HTTPException
    from urllib.request import ProxyHandler, build_opener

    from rlm_mcp.models.passed_http import PassedHTTPHandler

    passed = [] if connections is None else [PassedHTTPHandler(connections)]
    try:
        opener = build_opener(ProxyHandler({}), *passed)  # a proxy from the environment does not apply to this machine
        with opener.open(url, timeout=seconds) as response:
            body = json.loads(response.read(4 << 20))
    except (OSError, ValueError, RecursionError, HTTPException):  # absent or slow; not JSON; nested too deep; not HTTP
        return {}
    return body if isinstance(body, Mapping) else {}


def _billions(parameters: object) -> float | None:
    return parameters / 1e9 if isinstance(parameters, int | float) and 1 < parameters < 1e15 else None
