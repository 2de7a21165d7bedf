import subprocess
import sys
from pathlib import Path


def test_a_kill_at_any_of_a_hundred_points_leaves_all_or_nothing(files: Path, tmp_path: Path) -> None:
    for n in range(12):
        (files / f"{n}.txt").write_text(f"line of text {n}\n" * n + "\n")
    (files / "big.log").write_text("a line of the big log\n" * 50_000)  # long enough to have an index
    script = Path(__file__).with_name("killed.py")
    done = subprocess.run(  # noqa: S603 - this very interpreter
        [sys.executable, script, tmp_path / "data", files, "100"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("100 kills at ")
