"""Questions that code alone answers, without the meaning of any line."""

import random
from collections import Counter

from benchmarks.tasks.texts import COMPONENTS, NAMES, access_log, service_log
from benchmarks.tasks.types import Task, make_task


def level_count(rng: random.Random) -> Task:
    lines = service_log(rng, rng.randrange(90, 130))
    count = sum(line.split()[2] == "WARN" for line in lines)
    return make_task("structural", level_count, "How many lines have the level WARN?", "\n".join(lines), count)


def distinct_clients(rng: random.Random) -> Task:
    lines = access_log(rng, rng.randrange(70, 100), rng.randrange(14, 30))
    count = len({line.split()[0] for line in lines})
    question = "How many different client addresses occur in the log?"
    return make_task("structural", distinct_clients, question, "\n".join(lines), count)


def busiest_component(rng: random.Random) -> Task:
    lines = service_log(rng, 1_800)
    counts = Counter(line.split("[")[1].split("]")[0] for line in lines).most_common()
    favourite = counts[0][0]
    lines += [line for line in service_log(rng, 200) if f"[{favourite}]" in line]  # no tie
    question = "Which component (the name in square brackets) wrote the most lines?"
    return make_task("structural", busiest_component, question, "\n".join(lines), favourite, COMPONENTS)


def slowest_request(rng: random.Random) -> Task:
    lines = access_log(rng, rng.randrange(80, 110), 20)
    slowest = max(int(line.rsplit(" ", 1)[1].removesuffix("ms")) for line in lines)
    question = "What is the longest response time in the log, in milliseconds?"
    return make_task("structural", slowest_request, question, "\n".join(lines), slowest)


def errors_of_client(rng: random.Random) -> Task:
    lines = access_log(rng, rng.randrange(80, 110), 5)
    client = Counter(line.split()[0] for line in lines).most_common(1)[0][0]
    count = sum(line.split()[0] == client and line.split()[7] == "404" for line in lines)
    question = f"How many requests of the address {client} were answered with status 404?"
    return make_task("structural", errors_of_client, question, "\n".join(lines), count)


def worst_day(rng: random.Random) -> Task:
    lines = service_log(rng, 2_500, days=9)
    counts = Counter(line.split()[0] for line in lines if line.split()[2] == "ERROR").most_common(2)
    if counts[0][1] == counts[1][1]:
        return worst_day(rng)
    days = {line.split()[0] for line in lines}
    question = "On which day were the most lines of level ERROR written? Answer as YYYY-MM-DD."
    return make_task("structural", worst_day, question, "\n".join(lines), counts[0][0], days)


def functions_in_module(rng: random.Random) -> Task:
    verbs, nouns = (
        ("load", "parse", "merge", "sort", "send", "store"),
        ("user", "order", "page", "token", "file", "row"),
    )
    lines, count = ["import json", "import re", ""], 0
    for verb in verbs:
        for noun in nouns:
            if rng.random() < 0.4:
                continue
            count += 1
            lines += [f"def {verb}_{noun}(value, limit={rng.randrange(10, 99)}):"]
            lines += [f'    """{verb.title()} one {noun}; by default at most {rng.randrange(5, 50)} of them."""']
            lines += [f"    step = value * {rng.randrange(2, 9)} - limit", f"    return {noun}_table[step]", ""]
            if rng.random() < 0.3:
                lines += [f"{noun.upper()}_DEFAULT = {rng.randrange(100)}  # see default of {verb}_{noun}", ""]
    question = "How many functions are defined in this Python module?"
    return make_task("structural", functions_in_module, question, "\n".join(lines), count)


def failed_passwords(rng: random.Random) -> Task:
    texts = []
    for _ in range(rng.randrange(90, 130)):
        user = rng.choice(NAMES).lower()
        said = rng.choice(("Accepted", "Accepted", "Failed", "Reset"))
        text = f"{said} password for {user}, address 10.0.{rng.randrange(9)}.{rng.randrange(1, 255)}"
        closed = f"Closed session of {user}, Failed tries before: {rng.randrange(4)}"
        texts.append(closed if rng.random() < 0.2 else text)
    lines = [
        f"Nov 22 10:{index // 60:02d}:{index % 60:02d} gate sshd[{rng.randrange(99, 999)}]: {text}"
        for index, text in enumerate(texts)
    ]
    count = sum(text.startswith("Failed password") for text in texts)
    question = "How many lines report a Failed password?"
    return make_task("structural", failed_passwords, question, "\n".join(lines), count)


def declined_payments(rng: random.Random) -> Task:
    states = ("PAID", "PAID", "DECLINED", "PENDING")
    lines, count = [], 0
    for index in range(rng.randrange(90, 130)):
        state = rng.choice(states)
        count += state == "DECLINED"
        note = rng.choice(("first try", "was DECLINED before", "by card", "by transfer"))
        order = f"order {4_000 + index} {state} {note}, {rng.randrange(9, 400)} EUR"
        lines.append(f"2026-06-{1 + index // 5:02d}T0{index % 9}:15 {order}")
    question = "How many orders have the state DECLINED?"
    return make_task("structural", declined_payments, question, "\n".join(lines), count)


def busiest_hour(rng: random.Random) -> Task:
    hours = [f"{hour:02d}" for hour in range(6, 22)]
    weights = [rng.randrange(1, 9) for _ in hours]
    picked = sorted(rng.choices(hours, weights, k=400))
    counts = Counter(picked).most_common(2)
    if counts[0][1] == counts[1][1]:
        return busiest_hour(rng)
    lines = [
        f"{hour}:{rng.randrange(60):02d} door {rng.choice('ABCD')} opened by badge {rng.randrange(100, 999)}"
        for hour in picked
    ]
    question = "In which hour of the day (two digits) was a door opened most often?"
    return make_task("structural", busiest_hour, question, "\n".join(lines), counts[0][0], hours)
