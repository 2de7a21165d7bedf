"""Generates shop.log, the log of one afternoon of an invented web shop; the bytes are the same every time.

    python -m rlm_mcp.cli.demo_data.shop

It contains an incident: at 14:05 the payments service loads a new certificate bundle; from 14:07 on its calls to
the card provider time out, checkouts fail, retries drain the database pool, and at 14:31 the bundle is rolled back.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from rlm_mcp.cli.demo_data.dice import Dice

START_MINUTE, MINUTES = 13 * 60, 120
INCIDENT, ROLLBACK = range(14 * 60 + 7, 14 * 60 + 31), 14 * 60 + 31
CUSTOMERS = ("ines", "tomas", "wei", "amara", "lukas", "priya", "noor", "sofia", "kenji", "olga")
GOODS = ("kettle", "desk lamp", "rain jacket", "notebook", "bike pump", "teapot", "headphones", "wool socks")


def log_lines() -> Iterator[str]:
    """All lines in chronological order."""
    dice = Dice(20261122)
    order = 71_000
    for minute in range(START_MINUTE, START_MINUTE + MINUTES):
        lines: list[tuple[int, str, str, str]] = []
        for _ in range(3 + dice.below(4)):
            order += 1
            lines += _order(dice, order, minute)
        lines += _housekeeping(dice, minute)
        for millisecond, level, component, text in sorted(lines, key=lambda line: line[0]):
            seconds, rest = divmod(millisecond, 1000)
            clock = f"{minute // 60:02d}:{minute % 60:02d}:{seconds:02d}.{rest:03d}"
            yield f"2026-10-14 {clock} {level:<5} [{component}] {text}"


def _order(dice: Dice, order: int, minute: int) -> list[tuple[int, str, str, str]]:
    """The lines of one order."""
    at = dice.below(50_000)
    who, what = dice.one_of(CUSTOMERS), dice.one_of(GOODS)
    cents = 900 + dice.below(12_000)
    lines = [
        (at, "INFO", "gateway", f"POST /checkout order={order} customer={who} items=1"),
        (at + 40, "DEBUG", "inventory", f'reserved "{what}" for order={order} left={dice.below(90)}'),
    ]
    broken = minute in INCIDENT and dice.below(10) < 7
    if broken:
        waited = 3_000 + dice.below(40)
        lines += [
            (at + waited, "ERROR", "payments", f"charge order={order} failed: card provider timed out after 3000 ms"),
            (at + waited + 5, "WARN", "payments", f"retry 1 of 2 for order={order} in 2 s"),
            (at + waited + 5_100, "ERROR", "payments", f"charge order={order} failed: TLS handshake with provider"),
            (at + waited + 5_160, "ERROR", "gateway", f"POST /checkout order={order} 502 in {waited + 5_160} ms"),
            (at + waited + 5_200, "INFO", "inventory", f'released "{what}" of order={order}'),
        ]
    elif dice.below(40) == 0:
        lines += [
            (at + 300, "WARN", "payments", f"card declined for order={order}: insufficient funds"),
            (at + 320, "INFO", "gateway", f"POST /checkout order={order} 402 in 320 ms"),
        ]
    else:
        lines += [
            (at + 420, "INFO", "payments", f"charged order={order} amount={cents / 100:.2f} EUR"),
            (at + 480, "INFO", "gateway", f"POST /checkout order={order} 200 in 480 ms"),
            (at + 1_900, "INFO", "mailer", f"sent confirmation of order={order} to {who}@example.com"),
        ]
    return lines


def _housekeeping(dice: Dice, minute: int) -> list[tuple[int, str, str, str]]:
    """The lines that are independent of orders."""
    at = dice.below(59_000)
    busy = minute in INCIDENT
    in_use = 30 + dice.below(9) if busy else 3 + dice.below(9)
    lines = [(at, "INFO", "db-pool", f"connections in use {in_use} of 40")]
    if busy and in_use > 36:
        lines.append((at + 200, "ERROR", "db-pool", "no free connection for 5000 ms, request refused"))
    if minute % 10 == 0:
        lines.append((at + 90, "INFO", "scheduler", f"stock report written, {dice.below(400)} rows"))
    if dice.below(25) == 0:
        lines.append((at + 700, "ERROR", "mailer", f"mailbox of {dice.one_of(CUSTOMERS)}@example.com is full"))
    if dice.below(30) == 0:
        lines.append((at + 800, "WARN", "gateway", f"slow client 203.0.113.{dice.below(200)}: body took 4 s"))
    if minute == 14 * 60 + 5:
        lines.append((12_000, "INFO", "payments", "loaded certificate bundle ca-2026-10 (142 roots)"))
    if minute == ROLLBACK:
        lines += [
            (4_000, "WARN", "payments", "operator mara: rolled certificate bundle back to ca-2026-07 (143 roots)"),
            (4_600, "INFO", "payments", "connection to card provider is healthy again"),
        ]
    return lines


def main() -> int:
    """Writes the log beside this file."""
    Path(__file__).with_name("shop.log").write_text("\n".join(log_lines()) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
