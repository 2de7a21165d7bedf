"""Names the figures that got worse.

    python -m benchmarks --to NEW.json [TABLE …] [--rivals PYTHON …]
    python -m benchmarks.check NEW.json [--committed benchmarks/results.json]

A figure is worse if its whole range lies beyond that of the committed run and its value is a quarter beyond; of a
score, or of a share that survived, a fiftieth. The exit status is 1 if there is one. Both runs must be of the same
machine. What no machine changes much is checked by tests/benchmarks/test_ratios.py.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.__main__ import RESULTS
from benchmarks.figures import cell

TOLERATED = 1.25
OF_SCORES = 1.02
"""They do not depend on the speed of the machine."""


def worse(committed: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A sentence for each figure of both runs that got worse beyond its noise."""
    found = []
    for table, document in new.items():
        known = {(f["name"], f["contender"]): f for f in committed.get(table, {}).get("figures", [])}
        for figure in document["figures"]:
            before = known.get((figure["name"], figure["contender"]))
            if before is not None and _is_worse(before, figure):
                found.append(
                    f"{table}: {figure['name']} of {figure['contender']} was {cell(before)}, is {cell(figure)}"
                )
    return found


def _is_worse(before: dict[str, Any], now: dict[str, Any]) -> bool:
    if now["better"] == "higher":
        tolerated = OF_SCORES if now["unit"] in {"%", ""} else TOLERATED
        return bool(now["high"] < before["low"] and now["value"] * tolerated < before["value"])
    return bool(now["low"] > before["high"] and now["value"] > before["value"] * TOLERATED)


def main() -> None:
    """Compare two files of results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("new", type=Path)
    parser.add_argument("--committed", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = worse(json.loads(options.committed.read_text()), json.loads(options.new.read_text()))
    print("\n".join(found) or "no figure got worse beyond its noise")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
