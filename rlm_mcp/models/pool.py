"""Chooses the models of a run from the settings: endpoint, key and profile, or an error that says what to set.

A process has one pool. It keeps one provider per endpoint, so that all runs share its connections and its limiter, and
one model per name, so that its dialect and window are learned once.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.to_thread

from rlm_mcp.errors import NoModelConfigured
from rlm_mcp.models.connections import Connections
from rlm_mcp.models.discovery import Facts, LocalServer, facts_of, find_local_servers, served_models
from rlm_mcp.models.openai import OpenAIModel, OpenAIProvider
from rlm_mcp.models.profiles import is_local, profile_of
from rlm_mcp.redact import Secret
from rlm_mcp.settings import OPENAI_BASE_URL, Settings

NO_MODEL = (
    "no model is configured: set RLM_MCP_MODEL and RLM_MCP_API_KEY (and RLM_MCP_BASE_URL, if it is not OpenAI's), or"
    " start a local server (Ollama, LM Studio, llama.cpp, vLLM), or use the prompt be_the_root, which needs no key"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The models of one run. `found` names the local server that was discovered; it is empty if one was configured."""

    root: OpenAIModel
    sub: OpenAIModel
    found: str = ""

    @property
    def named(self) -> dict[str, OpenAIModel]:
        """The models that code in the REPL may name, the default first."""
        return {self.sub.name: self.sub, self.root.name: self.root}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Endpoint:
    base_url: str
    api_key: Secret
    window_tokens: int | None


class ModelPool:
    """The models of a process; `open_models` makes it. `find`, `facts` and `served` ask servers on this machine."""

    def __init__(
        self,
        settings: Settings,
        *,
        find: Callable[[], Sequence[LocalServer]] = find_local_servers,
        facts: Callable[[str, str], Facts] = facts_of,
        served: Callable[[str], Sequence[str]] = served_models,
        connections: Connections | None = None,
    ) -> None:
        self._connections = connections
        self._settings = settings
        self._find = find
        self._facts = facts
        self._served = served
        self._providers: dict[tuple[str, Secret], OpenAIProvider] = {}
        self._models: dict[tuple[str, Secret, str], OpenAIModel] = {}
        self._making = anyio.Lock()

    def __repr__(self) -> str:
        return f"<ModelPool {list(self._providers.values())}>"

    async def choose(self, model: str | None = None, sub_model: str | None = None) -> Chosen:
        """Returns the models with these names or, without names, the configured ones. Raises NoModelConfigured.

        A local server is looked for only if neither an address nor a key is set.
        """
        async with self._making:
            endpoint, found = await self._endpoint(model or self._settings.model)
            root_name = model or self._settings.model or await self._only_model(endpoint, found)
            root = await self._model(endpoint, root_name)
            sub_name = sub_model or self._settings.sub_model or root_name
            sub = await self._model(self._sub_endpoint(endpoint), sub_name)
        return Chosen(root=root, sub=sub, found=f"{found.name} at {found.base_url}" if found else "")

    async def aclose(self) -> None:
        """Closes all connections."""
        for provider in self._providers.values():
            await provider.aclose()

    async def _endpoint(self, model: str | None) -> tuple[_Endpoint, LocalServer | None]:
        settings = self._settings
        if settings.base_url is not None or settings.api_key:
            url = settings.base_url or OPENAI_BASE_URL
            return _Endpoint(base_url=url, api_key=settings.api_key, window_tokens=settings.window_tokens), None
        servers = await anyio.to_thread.run_sync(self._find)
        if not servers:
            raise NoModelConfigured(NO_MODEL)
        found = next((server for server in servers if model in server.models), servers[0])
        return _Endpoint(base_url=found.base_url, api_key=Secret(""), window_tokens=settings.window_tokens), found

    def _sub_endpoint(self, endpoint: _Endpoint) -> _Endpoint:
        settings = self._settings
        window = settings.sub_window_tokens
        if settings.sub_base_url is None and not settings.sub_api_key:
            return _Endpoint(
                base_url=endpoint.base_url, api_key=endpoint.api_key, window_tokens=window or endpoint.window_tokens
            )
        # A key is sent only to its own address: a separate address without a separate key gets none.
        url = settings.sub_base_url or endpoint.base_url
        return _Endpoint(base_url=url, api_key=settings.sub_api_key, window_tokens=window)

    async def _only_model(self, endpoint: _Endpoint, found: LocalServer | None) -> str:
        names = found.models if found else await anyio.to_thread.run_sync(self._served, endpoint.base_url)
        if len(names) == 1 or (found and names):
            return names[0]
        url, none = endpoint.base_url, "no model is configured"
        if names:
            listed = ", ".join(list(names)[:5])
            raise NoModelConfigured(f"{none}, and {url} serves {len(names)} ({listed}): set RLM_MCP_MODEL to one")
        if is_local(url):
            raise NoModelConfigured(f"{none}, and {url} lists none: start the server there or set RLM_MCP_MODEL")
        raise NoModelConfigured(f"{none}: set RLM_MCP_MODEL to a model that {url} serves")

    async def _model(self, endpoint: _Endpoint, name: str) -> OpenAIModel:
        address = (endpoint.base_url, endpoint.api_key)
        known = self._models.get((*address, name))
        if known is not None:
            return known
        facts = await anyio.to_thread.run_sync(self._facts, endpoint.base_url, name)
        profile = profile_of(
            name,
            endpoint.base_url,
            prices=self._settings.prices,
            window_tokens=endpoint.window_tokens or facts.window_tokens,
            billions=facts.billions,
        )
        if address not in self._providers:
            self._providers[address] = OpenAIProvider(
                endpoint.base_url, endpoint.api_key, connections=self._connections
            )
        model = self._models[*address, name] = self._providers[address].model(name, profile)
        return model


@asynccontextmanager
async def open_models(settings: Settings, *, connections: Connections | None = None) -> AsyncIterator[ModelPool]:
    """Opens the pool of this process and closes its connections at the end.

    A process that has no network of its own passes `connections`.
    """
    pool = ModelPool(
        settings,
        find=partial(find_local_servers, connections=connections),
        facts=partial(facts_of, connections=connections),
        served=partial(served_models, connections=connections),
        connections=connections,
    )
    try:
        yield pool
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(1):
            await pool.aclose()
