"""Tools of other MCP servers in the REPL: allowed by name, started when needed, and failing in words."""

import sys
from pathlib import Path

import anyio
import pytest

import rlm_mcp
from rlm_mcp.errors import SettingsError, SubCallFailed
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.redact import Secret
from rlm_mcp.repl.guest_functions import GuestFunction
from rlm_mcp.settings import Settings, ToolServer, load_settings
from rlm_mcp.workspace.launch import RunModels
from rlm_mcp.workspace.tool_servers import open_tool_servers

pytestmark = pytest.mark.anyio

SERVER = (sys.executable, "-I", str(Path(__file__).parent / "tool_server.py"))


def crm(*allow: str, command: tuple[str, ...] = SERVER) -> dict[str, ToolServer]:
    return {"crm": ToolServer(command=command, allow=allow, env={"CRM_KEY": Secret("a-key")})}


def by_name(functions: tuple[GuestFunction, ...]) -> dict[str, GuestFunction]:
    return {function.name: function for function in functions}


async def test_allowed_tools_are_functions_with_a_line_each() -> None:
    with anyio.fail_after(30):
        async with open_tool_servers(crm("find-customer", "refuse")) as servers:
            found = by_name(await servers.functions())
            assert {name: function.line for name, function in found.items()} == {
                "tools.crm.find_customer": "tools.crm.find_customer(name: string, limit=None: integer): "
                "Finds a customer by name.",
                "tools.crm.refuse": "tools.crm.refuse():",
            }
            find, refuse = found.values()
            assert await find.call(["Ada"], {"limit": 2}) == {"given": {"name": "Ada", "limit": 2}, "key": "a-key"}
            with pytest.raises(SubCallFailed, match=r"^tools.crm.refuse failed: not on Sundays$"):
                await refuse.call([], {})
            with pytest.raises(SubCallFailed, match="takes 0 arguments, not 1"):
                await refuse.call([1], {})


async def test_a_server_that_does_not_answer_is_named() -> None:
    silent = (sys.executable, "-I", "-c", "import sys; sys.stdin.read()")
    with anyio.fail_after(30):
        async with open_tool_servers(crm("find", command=silent), start_seconds=0.3) as servers:
            with pytest.raises(SettingsError, match=r"tools.crm cannot be used \(it did not answer in time\)"):
                await servers.functions()


async def test_a_server_that_ended_is_started_by_the_next_run() -> None:
    with anyio.fail_after(30):
        async with open_tool_servers(crm("end", "find-customer")) as servers:
            end, find = await servers.functions()
            with pytest.raises(Exception, match="losed"):
                await end.call([], {})
            while repr(servers) != "<ToolServers crm, 0 open>":
                await anyio.lowlevel.checkpoint()
            _, again = await servers.functions()
            assert again is not find
            assert await again.call(["Ada"], {}) == {"given": {"name": "Ada"}, "key": "a-key"}


@pytest.mark.parametrize(
    ("servers", "words"),
    [
        (crm("delete"), r"allows 'delete', which that server does not have; it has: find-customer, refuse, end"),
        (crm("a", command=("/nonexistent/program",)), r"tools.crm cannot be used \(.*No such file"),
        (crm("a", command=(sys.executable, "-c", "pass")), r"tools.crm cannot be used \(.*losed"),
    ],
)
async def test_a_server_that_cannot_be_used_is_told_before_anything_is_spent(
    servers: dict[str, ToolServer], words: str
) -> None:
    with anyio.fail_after(30):
        async with open_tool_servers(servers) as unusable:
            with pytest.raises(SettingsError, match=words):
                await unusable.functions()


async def test_code_of_a_run_calls_tools_of_a_server_in_the_settings(tmp_path: Path, sandbox_cache: Path) -> None:
    settings = Settings(
        data_dir=tmp_path / "data", cache_dir=sandbox_cache, sub_call_cache=False, tools=crm("find-customer")
    )
    model = ScriptedModel(
        ["```repl\nn = tools.crm.find_customer(context, limit=1)['given']\n```", "```repl\nFINAL(n)\n```"]
    )

    async def choose(_root: str | None, _sub: str | None) -> RunModels:
        return RunModels(root=model, sub=model)

    with anyio.fail_after(60):
        state = await rlm_mcp.solve("Who?", {"name": "Ada"}, settings=settings, choose=choose)
    assert (state.status, state.usage.sub_calls) == ("completed", 1)
    assert state.answer == '{"name": "Ada", "limit": 1}'
    assert "- tools.crm.find_customer(name: string, limit=None: integer): Finds" in model.calls[0].messages[0].content


def test_servers_are_a_table_of_the_settings_whose_values_are_secret(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[tools.crm]\ncommand = ["crm", "-x"]\nallow = ["find"]\nenv = {KEY = "hunter2"}\n')
    settings = load_settings(environ={"HOME": str(tmp_path)}, config_file=file)
    assert settings.tools == {"crm": ToolServer(command=("crm", "-x"), allow=("find",), env={"KEY": Secret("hunter2")})}
    assert "hunter2" not in repr(settings)
    for wrong in ('{"crm": {"command": ["crm"]}}', '{"a b": {"command": ["c"], "allow": ["d"]}}', "[]", "hunter2"):
        with pytest.raises(SettingsError, match="RLM_MCP_TOOLS") as error:
            load_settings(environ={"HOME": str(tmp_path), "RLM_MCP_TOOLS": wrong}, config_file=tmp_path / "none")
        assert "hunter2" not in str(error.value)
