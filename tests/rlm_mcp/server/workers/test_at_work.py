"""A confined process can still do all the work of a server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

if sys.platform != "linux":
    pytest.skip("Linux confines workers", allow_module_level=True)

import landlockpy
import seccompy

from rlm_mcp.server.workers.egress import EgressBroker, destination_of, egress_pair
from tests.peers.openai_server import OpenAIServer
from tests.rlm_mcp.contexts.sources.office_files import docx, paragraph
from tests.rlm_mcp.server.workers.certificates import self_signed
from tests.rlm_mcp.server.workers.servers import https_server

pytestmark = pytest.mark.anyio

AT_WORK = Path(__file__).parent / "at_work.py"
GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C")


def lay_out(base: Path) -> None:
    repository = base / "root" / "repository"
    for directory in (base / "data", base / "temp", repository):
        directory.mkdir(parents=True)
    (repository / "a.py").write_text("x = 1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*GIT, repository, *command], check=True)  # noqa: S603 - our own arguments
    (base / "root" / "letter.docx").write_bytes(docx(paragraph("Payment is due.")))


async def test_a_confined_worker_registers_runs_code_and_solves(tmp_path: Path, sandbox_cache: Path) -> None:
    if landlockpy.abi_version() < 2 or not seccompy.supported():
        pytest.skip("this kernel does not confine workers")
    lay_out(tmp_path)
    pair = egress_pair()
    assert pair is not None
    replies = ["```repl\nprint(llm_query('what is due?'))\n```", "money", "```repl\nFINAL('Money is due.')\n```"]
    tls = self_signed(tmp_path / "root" / "certificate.pem")
    with anyio.fail_after(120):
        async with (
            OpenAIServer(replies) as models,
            https_server(tls, "secret") as tls_port,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(EgressBroker([destination_of(models.base_url), ("localhost", tls_port)]).serve, pair[0])
            with pair[1]:
                ended = await anyio.run_process(
                    [
                        sys.executable,
                        str(AT_WORK),
                        tmp_path,
                        sandbox_cache,
                        str(pair[1].fileno()),
                        models.base_url,
                        str(tls_port),
                    ],
                    pass_fds=[pair[1].fileno()],
                    env={**os.environ, "TMPDIR": str(tmp_path / "temp")},
                    stderr=None,
                )
    assert json.loads(ended.stdout) == {
        "files of the repository": 1,
        "kind of the document": "text",
        "cell": "'Payment is due.\\n\\n'",
        "answer": "Money is due.",
        "TLS": "secret",
        "fork": "6",
        "lacks": [],
    }
