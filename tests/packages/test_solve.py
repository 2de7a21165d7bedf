"""`rlm-mcp solve` over a table of 20 MB, with a model that uses pandas as its prompt says."""

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlm_mcp.cli.main import main
from tests.peers.openai_server import OpenAIServer, Request

pytestmark = pytest.mark.packages

ROWS = 400_000
TOTALS = """```repl
import pandas
frame = {reader}
totals = frame[frame.status == 'paid'].groupby('region').amount.sum().sort_values(ascending=False)
print(frame.shape, totals)
```"""
ANSWER = "```repl\nFINAL(f'{totals.index[0]} {totals.iloc[0]}')\n```"

Solve = Callable[..., dict[str, object]]


def use_pandas(request: Request) -> str:
    """Read the table with the expression that the prompt offers, then answer."""
    reader = re.search(r"pandas\.read_csv\(.*?\)(?= gives a DataFrame)", request.text)
    if any(message["role"] == "assistant" for message in request.messages):
        return ANSWER
    return TOTALS.format(reader=reader[0] if reader else "None")


@pytest.fixture
def requests() -> list[Request]:
    return []


@pytest.fixture
def endpoint(requests: list[Request]) -> Iterator[OpenAIServer]:
    def reply(request: Request) -> str:
        requests.append(request)
        return use_pandas(request)

    with OpenAIServer(reply).run_in_thread() as server:
        yield server


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A table of orders, and the region with the largest total of paid ones."""
    rng, totals = random.Random(1), dict.fromkeys(("north", "south", "east", "west"), 0)
    path = tmp_path_factory.mktemp("table") / "orders.csv"
    with path.open("w") as file:
        file.write("order,day,region,customer,status,amount\n")
        for number in range(ROWS):
            region, status = rng.choice(list(totals)), rng.choice(("paid", "open", "refunded"))
            amount = rng.randrange(1, 100_000)
            totals[region] += amount * (status == "paid")
            day = f"2026-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
            file.write(f"{number:07},{day},{region},customer {rng.randrange(9000):05},{status},{amount}\n")
    best = max(totals, key=lambda region: totals[region])
    return path, f"{best} {totals[best]}"


@pytest.fixture
def solve(
    image: Path | None,
    table: tuple[Path, str],
    endpoint: OpenAIServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Solve:
    """Runs `solve` over the table with a value of the setting `packages`; -> its result."""
    if image is None:
        pytest.skip("--image names no image with packages for data")
    images = tmp_path / "data" / "packages" / "images"
    images.mkdir(parents=True)
    (images / "data").symlink_to(image.resolve())
    paths = ("--data-dir", str(tmp_path / "data"))
    model = ("--base-url", endpoint.base_url, "--model", "scripted", "--mode", "rlm", "--json")

    def run(packages: str) -> dict[str, object]:
        question = "Which region has the largest total of paid orders?"
        main(["solve", question, str(table[0]), "--packages", packages, *model, *paths])
        answered: dict[str, object] = json.loads(capsys.readouterr().out)
        main(["runs", "replay", str(answered["run_id"]), "--json", *paths])
        return answered | {"replayed": json.loads(capsys.readouterr().out)}

    return run


def test_a_model_reads_a_table_of_20_mb_as_its_prompt_says(
    solve: Solve, table: tuple[Path, str], requests: list[Request]
) -> None:
    assert table[0].stat().st_size > 20e6
    answered = solve("pandas")
    assert (answered["answer"], answered["stopped_by"]) == (table[1], "final")
    assert answered["replayed"] == {"answer": table[1], "status": "completed", "difference": None}
    assert "standard library; installed besides: bs4, dateutil, " in requests[0].text
    assert re.search(r"pandas\.read_csv\('/context/[^']+\.csv'\) gives a DataFrame", requests[0].text)
    assert f"({ROWS}, 6)" in requests[1].last


def test_without_packages_the_prompt_names_none_and_an_import_says_what_there_is(
    solve: Solve, requests: list[Request]
) -> None:
    solve("none")
    assert "pandas" not in requests[0].text
    assert "standard library, no network" in requests[0].text
    assert (
        "No module named 'pandas'. This sandbox has the standard library only. Nothing can be installed from here."
    ) in requests[1].last
