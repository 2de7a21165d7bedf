"""The texts in which tasks hide their answers: logs, records, prose, and lines of mixed meaning."""

import random
from collections.abc import Iterable
from typing import Any

from benchmarks.tasks import sentences

_LEVELS = ("DEBUG", "INFO", "INFO", "INFO", "WARN", "ERROR")
COMPONENTS = ("gateway", "billing", "mailer", "indexer", "scheduler")
_PATHS = ("/", "/login", "/search", "/cart", "/help", "/api/items", "/api/orders")
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana")


def service_log(rng: random.Random, lines: int, *, days: int = 1) -> list[str]:
    """Service log lines: date, time, level, component, text; a text may name another level."""
    texts = (
        "request served in {} ms",
        "queue holds {} jobs",
        "retry {} scheduled",
        "cache miss for key {}",
        "user {} signed in",
        "no error after {} checks",
        "last warning cleared, code {}",
    )
    made = []
    for index in range(lines):
        second = index * 86_400 * days // lines
        day, rest = divmod(second, 86_400)
        clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
        text = rng.choice(texts).format(rng.randrange(1, 9_000))
        level = rng.choice(_LEVELS)
        made.append(f"2026-05-{day + 3:02d} {clock} {level} [{rng.choice(COMPONENTS)}] {text}")
    return made


def access_log(rng: random.Random, lines: int, addresses: int) -> list[str]:
    """Lines of a web server's log, from so many addresses."""
    clients = [f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}" for _ in range(addresses)]
    return [
        f'{rng.choice(clients)} - - [12/May/2026:10:{index // 60 % 60:02d}:{index % 60:02d}] "GET {rng.choice(_PATHS)}'
        f' HTTP/1.1" {rng.choice((200, 200, 200, 304, 404, 500))} {rng.randrange(200, 9_000)} {rng.randrange(3, 900)}ms'
        for index in range(lines)
    ]


def make_orders(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Records of orders with ids that rise."""
    return [
        {
            "id": 4_000 + index,
            "customer": rng.choice(NAMES),
            "amount": rng.randrange(1, 500),
            "status": rng.choice(("open", "closed", "held")),
        }
        for index in range(count)
    ]


def prose(rng: random.Random, count: int, *, in_paragraph: int = 5) -> list[str]:
    """Paragraphs of an invented chronicle, one paragraph a line."""
    parts = (sentences.TIMES, sentences.SUBJECTS, sentences.ACTIONS, sentences.PLACES)
    made = [" ".join(map(rng.choice, parts)) + "." for _ in range(count)]
    return [" ".join(made[at : at + in_paragraph]) for at in range(0, count, in_paragraph)]


def mixed(rng: random.Random, *groups: Iterable[str]) -> list[str]:
    """All lines of the groups in random order."""
    lines = [line for group in groups for line in group]
    rng.shuffle(lines)
    return lines
