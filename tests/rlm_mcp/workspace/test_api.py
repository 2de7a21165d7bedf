import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import rlm_mcp
from rlm_mcp.errors import NameTaken, SourceRefused
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.settings import Settings
from rlm_mcp.workspace.launch import RunModels


@pytest.mark.anyio
async def test_solve_answers_over_a_path_and_over_texts(tmp_path: Path, sandbox_cache: Path) -> None:
    (tmp_path / "a.log").write_text("one\ntwo\n")
    settings = Settings(data_dir=tmp_path / "data", cache_dir=sandbox_cache, sub_call_cache=False)

    async def choose(root: str | None, sub: str | None) -> RunModels:
        model = ScriptedModel(["```repl\nn = context.count('o')\nn\n```", "```repl\nFINAL(n)\n```"])
        return RunModels(root=model, sub=model)

    state = await rlm_mcp.solve("How many o?", [tmp_path / "a.log"], mode="rlm", settings=settings, choose=choose)
    assert (state.status, state.answer, state.stopped_by) == ("completed", "2", "final")
    texts = await rlm_mcp.solve("How many o?", {"b": "ooo"}, mode="rlm", settings=settings, choose=choose)
    assert texts.answer == "3"


@pytest.mark.anyio
async def test_solve_takes_other_texts_under_the_same_name_each_time(tmp_path: Path, sandbox_cache: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", cache_dir=sandbox_cache, sub_call_cache=False)

    async def choose(root: str | None, sub: str | None) -> RunModels:
        model = ScriptedModel(["```repl\nn = contexts['b'].count('o')\nn\n```", "```repl\nFINAL(n)\n```"])
        return RunModels(root=model, sub=model)

    async def count(text: str) -> object:
        return (await rlm_mcp.solve("How many o?", {"b": text}, mode="rlm", settings=settings, choose=choose)).answer

    assert [await count("ooo"), await count("oo"), await count("oo"), await count("ooo")] == ["3", "2", "2", "3"]
    async with rlm_mcp.open_workspace(settings, choose=choose) as workspace:
        (kept,) = (await workspace.contexts.list_page()).contexts
        assert (kept.name, kept.chars) == ("b", 3)


@pytest.mark.anyio
async def test_solve_does_not_put_a_text_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("of the file")
    settings = Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    async with rlm_mcp.open_workspace(settings) as workspace:
        await workspace.contexts.register(source=str(tmp_path / "b"), name="b")
    with pytest.raises(NameTaken, match="the name 'b' belongs to other content"):
        await rlm_mcp.solve("?", {"b": "another text"}, settings=settings)


@pytest.mark.anyio
async def test_what_can_be_told_before_it_costs_is_raised_as_itself(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    with pytest.raises(SourceRefused, match=r"nothing\.log"):
        await rlm_mcp.solve("?", [tmp_path / "nothing.log"], settings=settings)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, rlm_mcp; print(sys.modules.keys() & {'mcp', 'openai', 'wasmtime', 'pydantic', 'anyio'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - a fixed command
    assert done.stdout == "set()\n"


def test_public_names_stay_what_they_are_whatever_is_imported() -> None:
    import rlm_mcp.engine.loop
    import rlm_mcp.workspace.api

    assert rlm_mcp.solve is rlm_mcp.workspace.api.solve
    assert not any(module.name in rlm_mcp.__all__ for module in pkgutil.iter_modules(rlm_mcp.__path__))
    with pytest.raises(AttributeError, match="module 'rlm_mcp' has no attribute 'no_such_name'"):
        rlm_mcp.no_such_name  # noqa: B018 # looking is what is tried
    assert set(rlm_mcp.__all__) == {"__version__", "build_server", "load_settings", "open_workspace", "solve"}
    assert all(getattr(rlm_mcp, name) is not None for name in rlm_mcp.__all__)
