"""A worker process that does its work: confines itself, then registers, runs code and solves over the broker.

    python at_work.py DIRECTORY CACHE EGRESS_DESCRIPTOR BASE_URL TLS_PORT

DIRECTORY is laid out by test_at_work.py, whose certificate is in it. Prints the results as JSON.
"""

import json
import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import aiohttp
import anyio
from mcp import Client

from rlm_mcp.models.passed_sockets import PassedSocketConnector
from rlm_mcp.models.pool import open_models
from rlm_mcp.server.server import build_server
from rlm_mcp.server.workers.confinement import Confinement, confine
from rlm_mcp.server.workers.egress import Egress
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.workspace import open_workspace
from wasm_runtime import Runtime

BASE, CACHE, DESCRIPTOR, URL, TLS_PORT = (
    Path(sys.argv[1]),
    Path(sys.argv[2]),
    int(sys.argv[3]),
    sys.argv[4],
    sys.argv[5],
)
ROOT = BASE / "root"


async def work(egress: Egress) -> dict[str, object]:
    settings = Settings(data_dir=BASE / "data", cache_dir=CACHE, roots=(ROOT,), model="scripted", base_url=URL)
    async with (
        open_models(settings, connections=egress) as models,
        open_workspace(settings, choose=models.choose) as workspace,
        Client(build_server(workspace)) as client,
    ):

        async def call(tool: str, **arguments: object) -> dict[str, Any]:
            answer = await client.call_tool(tool, arguments)
            return answer.structured_content or {"error": str(answer.content)}

        repository = await call("register_context", path=str(ROOT / "repository@HEAD"))
        document = await call("register_context", path=str(ROOT / "letter.docx"), name="letter")
        cell = await call("inspect_context", context="letter", code="context")
        run = await call("rlm_solve", query="What does it say?", contexts=["letter"], mode="rlm")
    return {
        "files of the repository": repository.get("files", repository),
        "kind of the document": document.get("kind", document),
        "cell": cell.get("value", cell),
        "answer": run.get("answer", run),
    }


async def ask_with_tls(egress: Egress) -> str:
    context = ssl.create_default_context(cafile=ROOT / "certificate.pem")
    async with (
        aiohttp.ClientSession(connector=PassedSocketConnector(egress, ssl=context)) as client,
        client.get(f"https://localhost:{TLS_PORT}/") as response,
    ):
        return await response.text()


def fork() -> str | None:
    with Runtime(CACHE) as runtime, runtime.session() as session:
        session.exec("x = [1, 2]")
        with session.fork() as copy:
            return copy.exec("x.append(3); sum(x)").value


if __name__ == "__main__":
    lacks = confine(
        Confinement(
            data_dir=BASE / "data",
            cache_dir=CACHE,
            temp_dir=BASE / "temp",
            roots=(ROOT,),
            memory_bytes=2 << 30,
            parent=os.getppid(),
        )
    )
    egress = Egress(socket.socket(fileno=DESCRIPTOR))
    results = anyio.run(work, egress) | {"TLS": anyio.run(ask_with_tls, egress), "fork": fork(), "lacks": lacks}
    json.dump(results, sys.stdout)
