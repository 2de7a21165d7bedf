import subprocess
import sys
from pathlib import Path

from rlm_mcp.contexts.store.store import Store

PROCESSES = 6
REGISTERS = """
import sys
from pathlib import Path
from rlm_mcp.contexts.store.store import Store

data, mine = Path(sys.argv[1]), sys.argv[2]
for _ in range(5):
    with Store(data) as store:
        store.register_text("the same for all" * 1_000, name="shared")
        for n in range(10):
            store.register_text(f"text {n} of {mine}", name=f"{mine}-{n}")
            store.read_lines(store.get("shared"), 1)
        store.remove(f"{mine}-0")
        store.gc(keep=[])
"""


def test_many_processes_use_one_store_from_its_first_moment(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", REGISTERS, str(tmp_path), str(n)] for n in range(PROCESSES)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]  # noqa: S603 - this interpreter
    assert [process.communicate(timeout=120)[1] for process in started] == [""] * PROCESSES
    with Store(tmp_path) as store:
        contexts = store.list(limit=100).contexts
        assert len(contexts) == 1 + 9 * PROCESSES
        assert all(len(store.text(context)) == context.chars for context in contexts)
        assert store.gc().blobs == 0
