"""When a bake is given up, and what one that was killed leaves behind."""

import os
from pathlib import Path

from wasm_runtime.build.bake import SilenceWatch
from wasm_runtime.build.packages import remove_stale


def test_a_guest_is_stuck_when_it_prints_nothing_for_too_long() -> None:
    silence = SilenceWatch(120)
    told = [(0, 50.0), (0, 169.0), (1, 169.5), (1, 289.0), (1, 289.5)]
    assert [silence.is_stuck(printed, now) for printed, now in told] == [False, False, False, False, True]


def test_what_a_killed_bake_left_is_removed_and_a_bake_that_goes_on_is_not(tmp_path: Path) -> None:
    for name in (".bake-old", ".bake-new", "0123456789abcdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "module.wasm.zst").touch()
    os.utime(tmp_path / ".bake-old", (1_000, 1_000))
    os.utime(tmp_path / "0123456789abcdef", (1_000, 1_000))
    remove_stale(tmp_path, older_than=2_000)
    assert {path.name for path in tmp_path.iterdir()} == {".bake-new", "0123456789abcdef"}
