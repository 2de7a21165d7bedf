from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlm_mcp.errors import NoModelConfigured
from rlm_mcp.models.discovery import Facts, LocalServer
from rlm_mcp.models.pool import ModelPool
from rlm_mcp.redact import Secret
from rlm_mcp.settings import Settings
from rlm_mcp.spending import Price

pytestmark = pytest.mark.anyio

KEY = Secret("sk-root")


def pool(
    *, servers: Sequence[LocalServer] = (), served: Sequence[str] = (), facts: Facts | None = None, **settings: Any
) -> ModelPool:
    return ModelPool(
        Settings(data_dir=Path("data"), cache_dir=Path("cache"), **settings),
        find=lambda: servers,
        facts=lambda _url, _model: facts or Facts(),
        served=lambda _url: served,
    )


async def test_nothing_configured_offers_three_ways_on() -> None:
    with pytest.raises(NoModelConfigured) as error:
        await pool().choose()
    assert str(error.value) == (
        "no model is configured: set RLM_MCP_MODEL and RLM_MCP_API_KEY (and RLM_MCP_BASE_URL, if it is not OpenAI's),"
        " or start a local server (Ollama, LM Studio, llama.cpp, vLLM), or use the prompt be_the_root, which needs no"
        " key"
    )


async def test_a_key_alone_means_openai_and_needs_a_model() -> None:
    with pytest.raises(NoModelConfigured, match=r"set RLM_MCP_MODEL to a model that https://api.openai.com/v1 serves"):
        await pool(api_key=KEY).choose()
    chosen = await pool(api_key=KEY, model="gpt-5", sub_model="gpt-5-mini").choose()
    assert (chosen.root.name, chosen.root.provider) == ("gpt-5", "https://api.openai.com/v1")
    assert (chosen.sub.name, list(chosen.named)) == ("gpt-5-mini", ["gpt-5-mini", "gpt-5"])
    assert chosen.root.profile.usd_per_mtok_out == 10


async def test_the_names_of_a_request_go_before_those_of_the_settings() -> None:
    chosen = await pool(api_key=KEY, model="gpt-5").choose("gpt-4.1", "gpt-4.1-mini")
    assert (chosen.root.name, chosen.sub.name) == ("gpt-4.1", "gpt-4.1-mini")


async def test_the_root_model_is_its_own_sub_model_where_none_is_set() -> None:
    chosen = await pool(base_url="http://127.0.0.1:1/v1", model="m").choose()
    assert chosen.root is chosen.sub


async def test_a_server_on_this_machine_is_found_and_named() -> None:
    server = LocalServer(name="Ollama", base_url="http://127.0.0.1:11434/v1", models=("llama3.1:8b", "other"))
    chosen = await pool(servers=[server], facts=Facts(window_tokens=4096, billions=8)).choose()
    assert (chosen.root.name, chosen.found) == ("llama3.1:8b", "Ollama at http://127.0.0.1:11434/v1")
    assert (chosen.root.profile.window_tokens, chosen.root.profile.strength) == (4096, "weak")


async def test_the_server_that_has_the_model_is_taken() -> None:
    servers = [
        LocalServer(name="Ollama", base_url="http://127.0.0.1:11434/v1", models=("a",)),
        LocalServer(name="vLLM", base_url="http://127.0.0.1:8000/v1", models=("b",)),
    ]
    assert (await pool(servers=servers, model="b").choose()).found == "vLLM at http://127.0.0.1:8000/v1"


async def test_the_only_model_of_a_local_address_is_taken_and_one_of_many_must_be_named() -> None:
    url = "http://127.0.0.1:8080/v1"
    assert (await pool(base_url=url, served=["only"]).choose()).root.name == "only"
    with pytest.raises(NoModelConfigured, match=r"/v1 serves 2 \(a, b\): set RLM_MCP_MODEL to one"):
        await pool(base_url=url, served=["a", "b"]).choose()
    with pytest.raises(NoModelConfigured, match="lists none: start the server there"):
        await pool(base_url=url).choose()


async def test_the_users_figures_for_a_model_take_precedence_over_the_servers() -> None:
    chosen = await pool(
        base_url="http://127.0.0.1:1/v1",
        model="m",
        window_tokens=2048,
        prices={"m": Price(usd_per_mtok_in=1, usd_per_mtok_out=2)},
        facts=Facts(window_tokens=4096),
    ).choose()
    assert (chosen.root.profile.window_tokens, chosen.root.profile.usd_per_mtok_in) == (2048, 1)


async def test_all_models_of_an_endpoint_share_its_limiter_and_are_made_once() -> None:
    models = pool(base_url="http://127.0.0.1:1/v1", model="a", sub_model="b")
    first, second = await models.choose(), await models.choose()
    assert (first.root is second.root, first.sub is second.sub) == (True, True)
    assert "OpenAIProvider http://127.0.0.1:1/v1" in repr(models)
    assert repr(models).count("OpenAIProvider") == 1


async def test_the_key_of_the_root_model_does_not_go_to_another_address() -> None:
    models = pool(api_key=KEY, model="gpt-5", sub_base_url="http://127.0.0.1:1/v1", sub_model="m")
    chosen = await models.choose()
    assert chosen.sub.provider == "http://127.0.0.1:1/v1"
    assert repr(models).count("OpenAIProvider") == 2
