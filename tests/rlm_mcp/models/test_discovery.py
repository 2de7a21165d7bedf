"""Servers on this machine, played by a small HTTP server that answers paths from a table."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rlm_mcp.models.discovery import Facts, LocalServer, facts_of, find_local_servers, served_models


@contextmanager
def serving(table: Mapping[str, Any]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = table.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def models(*rows: Mapping[str, Any]) -> dict[str, Any]:
    return {"/v1/models": {"object": "list", "data": list(rows)}}


def test_a_server_with_a_list_of_models_is_found_and_others_are_passed_over() -> None:
    page = {"/v1/models": b"<html>a development server</html>"}
    with serving(page) as page_port, serving(models({"id": "nomic-embed"}, {"id": "llama"})) as port:
        found = find_local_servers((("nobody", 9), ("page", page_port), ("Ollama", port)))
    assert found == [LocalServer(name="Ollama", base_url=f"http://127.0.0.1:{port}/v1", models=("llama",))]


def test_llama_cpp_tells_the_window_of_a_slot_and_the_size_of_the_model() -> None:
    table = models({"id": "model.gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 32768, "n_params": 1543714304}})
    table["/props"] = {"default_generation_settings": {"n_ctx": 4096}}
    with serving(table) as port:
        facts = facts_of(f"http://127.0.0.1:{port}/v1", "anything, for it serves one")
    assert facts == Facts(window_tokens=4096, billions=1.543714304)


def test_ollama_tells_the_window_of_a_loaded_model_only() -> None:
    table = models({"id": "a:8b", "owned_by": "library"}, {"id": "b:70b", "owned_by": "library"})
    table["/api/ps"] = {"models": [{"model": "a:8b", "context_length": 32768}]}
    table["/api/tags"] = {
        "models": [
            {"model": "a:8b", "details": {"parameter_size": "8.0B"}},
            {"model": "b:70b", "details": {"parameter_size": "70.6B"}},
        ]
    }
    with serving(table) as port:
        base = f"http://127.0.0.1:{port}/v1"
        assert facts_of(base, "a:8b") == Facts(window_tokens=32768, billions=8.0)
        assert facts_of(base, "b:70b") == Facts(window_tokens=4096, billions=70.6)


def test_lm_studio_and_vllm_tell_the_window() -> None:
    studio = models({"id": "m", "owned_by": "organization_owner"})
    studio["/api/v0/models"] = {"data": [{"id": "m", "max_context_length": 131072, "loaded_context_length": 8192}]}
    with serving(studio) as port, serving(models({"id": "m", "owned_by": "vllm", "max_model_len": 16384})) as other:
        assert facts_of(f"http://127.0.0.1:{port}/v1", "m") == Facts(window_tokens=8192)
        assert facts_of(f"http://127.0.0.1:{other}/v1", "m") == Facts(window_tokens=16384)


JUNK = [None, -5, 0, 10**400, float("inf"), float("nan"), "x", [], [1], {}, {"n_ctx": "x"}, [{"model": 1}], True]


def test_facts_that_no_model_has_are_not_believed() -> None:
    table: dict[str, Any] = {}
    with serving(table) as port:
        base = f"http://127.0.0.1:{port}/v1"
        for owner in ("llamacpp", "library", "organization_owner", "vllm"):
            for junk in JUNK:
                table.update(models({"id": "m", "owned_by": owner, "meta": junk, "max_model_len": junk}))
                table["/props"] = {"default_generation_settings": junk}
                table["/api/ps"] = table["/api/tags"] = table["/api/v0/models"] = {"models": junk, "data": junk}
                assert facts_of(base, "m") in {Facts(), Facts(window_tokens=4096)}
        table["/v1/models"] = b"[" * 200_000
        assert facts_of(base, "m") == Facts()


def test_an_unknown_model_an_absent_server_and_the_internet_tell_nothing() -> None:
    with serving(models({"id": "a"}, {"id": "b"})) as port:
        assert facts_of(f"http://127.0.0.1:{port}/v1", "c") == Facts()
    assert facts_of("http://127.0.0.1:9/v1", "m") == Facts()
    assert facts_of("https://api.openai.com/v1", "m") == Facts()
    assert served_models("https://api.openai.com/v1") == []
