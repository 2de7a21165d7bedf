"""The directory of sockets, and those that killed servers have left."""

import os
import time
from pathlib import Path

from rlm_mcp.server.workers.socket_directory import LOCK, PREFIX, socket_directory


def test_what_a_killed_server_left_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    left, new, no_lock = (tmp_path / f"{PREFIX}{name}" for name in ("left", "new", "no-lock"))
    for directory in (left, new, no_lock):
        directory.mkdir()
    for directory in (left, new):
        (directory / LOCK).touch()
    with socket_directory(tmp_path) as in_use:
        for old in (left, no_lock, in_use):
            os.utime(old, (time.time() - 3_600,) * 2)
        with socket_directory(tmp_path) as own:
            assert sorted(tmp_path.iterdir()) == sorted([new, no_lock, in_use, own])
            assert own.stat().st_mode & 0o777 == 0o700
    assert sorted(tmp_path.iterdir()) == sorted([new, no_lock])
