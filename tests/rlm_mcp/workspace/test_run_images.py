"""Which image a run gets: a new one by its request or the settings, an old one by its record."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.engine.types import OpenRepl
from rlm_mcp.models.scripted import ScriptedModel
from rlm_mcp.packages.library import PackageImage, PackageLibrary
from rlm_mcp.packages.types import PackagesMissing
from rlm_mcp.records.events import RunStarted, event_from_json, to_json
from rlm_mcp.settings import load_settings
from rlm_mcp.spending import Spent
from rlm_mcp.workspace.launch import Launch, Launcher, Models, RunModels, SolveRequest
from rlm_mcp.workspace.run_images import RunImages

pytestmark = pytest.mark.anyio


@pytest.fixture
def library(tmp_path: Path) -> PackageLibrary:
    for key, names in {"1": ["numpy"], "2": ["numpy", "pandas"]}.items():
        folder = tmp_path / "packages" / "images" / key
        folder.mkdir(parents=True)
        packages = [{"name": n, "version": "1.0", "imports": [n], "pure_part_only": False} for n in names]
        (folder / "manifest.json").write_text(json.dumps({"image": {"sha256": f"of {key}"}, "packages": packages}))
    return PackageLibrary(tmp_path)


class Openers:
    """Gives every image an opener of its own, which opens nothing."""

    def __init__(self) -> None:
        self.given: dict[int, str | None] = {}

    def __call__(self, image: PackageImage | None) -> OpenRepl:
        @asynccontextmanager
        async def opening(*_: object, **__: object) -> AsyncIterator[None]:
            yield

        self.given[id(opening)] = None if image is None else image.sha256
        return cast("OpenRepl", opening)


@pytest.fixture
def launcher(library: PackageLibrary, tmp_path: Path) -> Callable[[PackageLibrary], Launcher]:
    def make(used: PackageLibrary) -> Launcher:
        async def choose(root: str | None, sub: str | None) -> Models:
            return RunModels(root=ScriptedModel([]), sub=ScriptedModel([]))

        images = RunImages(library=used, chosen=library.used_by_run("of 1", ()), open_with=Openers())
        settings = load_settings({}, environ={"HOME": str(tmp_path)}, config_file=tmp_path / "none.toml")
        return Launcher(settings, choose, Store(tmp_path / "store"), Openers()(None), None, images)

    return make


def image_of(launch: Launch) -> str | None:
    return None if launch.image is None else launch.image.sha256


def request(packages: Sequence[str] | None) -> SolveRequest:
    return SolveRequest(query="q", contexts=(), packages=None if packages is None else tuple(packages))


@pytest.mark.parametrize(
    ("packages", "sha256"), [(None, "of 1"), (["none"], None), (["pandas"], "of 2"), (["numpy"], "of 1")]
)
async def test_a_new_run_gets_what_it_asks_for_or_the_image_of_the_settings(
    library: PackageLibrary,
    launcher: Callable[[PackageLibrary], Launcher],
    packages: Sequence[str] | None,
    sha256: str | None,
) -> None:
    assert image_of(await launcher(library).new(request(packages), [])) == sha256


async def test_until_the_image_of_the_settings_is_compiled_new_runs_do_without_packages(
    library: PackageLibrary,
) -> None:
    ready = [False]
    images = RunImages(
        library=library, chosen=library.used_by_run("of 1", ()), open_with=Openers(), is_ready=lambda: ready[0]
    )
    assert images.with_packages(None) is None
    assert images.with_packages(["numpy"]) == images.chosen
    ready[0] = True
    assert images.with_packages(None) == images.chosen


async def test_a_request_for_what_no_image_has_is_refused_before_it_starts(
    library: PackageLibrary, launcher: Callable[[PackageLibrary], Launcher]
) -> None:
    with pytest.raises(PackagesMissing, match="rlm-mcp packages add scipy"):
        await launcher(library).new(request(["scipy"]), [])


@pytest.mark.parametrize(("packages", "sha256"), [(["pandas"], "of 2"), (["none"], None)])
async def test_a_run_that_is_resumed_or_replayed_gets_the_image_of_its_record(
    library: PackageLibrary,
    launcher: Callable[[PackageLibrary], Launcher],
    packages: Sequence[str],
    sha256: str | None,
) -> None:
    launch = await launcher(library).new(request(packages), [])
    started = event_from_json(to_json(launch.started))
    assert isinstance(started, RunStarted)
    assert image_of(await launcher(library).resumed([started], Spent())) == sha256
    assert image_of(launcher(library).replayed([started])) == sha256


async def test_a_record_whose_image_is_gone_says_how_to_bake_it_again(
    library: PackageLibrary, launcher: Callable[[PackageLibrary], Launcher], tmp_path: Path
) -> None:
    launch = await launcher(library).new(request(["pandas"]), [])
    with pytest.raises(PackagesMissing, match=r"packages add numpy==1\.0 pandas==1\.0`"):
        launcher(PackageLibrary(tmp_path / "elsewhere")).replayed([launch.started])
