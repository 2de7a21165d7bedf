"""Questions whose answer stands at one place in a long text."""

import random

from benchmarks.tasks.texts import prose, service_log
from benchmarks.tasks.types import Task, make_task

_SERVICES = ("mail", "web", "sync", "audit", "print", "cache", "report", "backup")


def _with_needle(rng: random.Random, lines: list[str], needle: str) -> str:
    at = rng.randrange(len(lines) // 10, len(lines) * 9 // 10)
    return "\n".join([*lines[:at], needle, *lines[at:]])


def _people_with_numbers(rng: random.Random, form: str, low: int, high: int) -> tuple[list[str], str, int]:
    people = ("Dagny Holm", "Ivo Marek", "Leah Stone", "Tariq Aziz", "Noor Haddad", "Per Lind", "Una Brandt")
    numbers = rng.sample(range(low, high), len(people))
    lines = prose(rng, 120)
    for person, number in zip(people, numbers, strict=True):
        lines.insert(rng.randrange(1, len(lines)), form.format(person=person, number=number))
    index = rng.randrange(len(people))
    return lines, people[index], numbers[index]


def access_code(rng: random.Random) -> Task:
    project, code = (
        rng.choice(("zephyr", "orion", "larch")),
        f"{rng.choice(('trunk', 'kestrel', 'amber'))}-{rng.randrange(100, 999)}",
    )
    text = _with_needle(rng, service_log(rng, 100), f"NOTE: the access code of project {project} is {code}.")
    return make_task("needle", access_code, f"What is the access code of project {project}?", text, code)


def home_town(rng: random.Random) -> Task:
    towns = ("Hallvik", "Morsund", "Tarnby", "Ekeby", "Skarvik")
    town, other = rng.sample(towns, 2)
    lines = prose(rng, 150)
    at = rng.randrange(3, len(lines) - 3)
    lines[at] += f" In those years the cartographer Elva Brandt lived in {town} and drew her maps there."
    lines[1] += f" The cartographer Piet Brandt had his workshop in {other}."
    question = "In which town did the cartographer Elva Brandt live?"
    return make_task("needle", home_town, question, "\n".join(lines), town, towns)


def option_of_section(rng: random.Random) -> Task:
    names = [f"{one}_{two}" for one in _SERVICES for two in ("in", "out", "test", "old", "new")]
    timeouts = rng.sample(range(10, 999), len(names))
    lines = []
    for name, timeout in zip(names, timeouts, strict=True):
        lines += [f"[{name}]", f"host = {name.replace('_', '-')}.example.org", f"port = {rng.randrange(1_024, 65_000)}"]
        lines += [f"timeout = {timeout}", f"retries = {rng.randrange(9)}", f"user = svc{rng.randrange(10, 99)}", ""]
    index = rng.randrange(len(names))
    question = f"What is the timeout in the section {names[index]}?"
    return make_task("needle", option_of_section, question, "\n".join(lines), timeouts[index])


def replaced_version(rng: random.Random) -> Task:
    old, new = (
        f"{rng.randrange(2, 5)}.{rng.randrange(10)}",
        f"{rng.randrange(5, 9)}.{rng.randrange(10)}.{rng.randrange(10)}",
    )
    lines = prose(rng, 900)  # more than a small window holds
    text = _with_needle(rng, lines, f"The harvest parser {old} was superseded by release {new} after the audit.")
    return make_task("needle", replaced_version, f"Which release superseded the harvest parser {old}?", text, new)


def laundry_number(rng: random.Random) -> Task:
    number = rng.randrange(2_000, 9_999)
    lines = prose(rng, 110)
    needle = f"Whoever had washing to be done was to dial {number} and ask for Mrs. Okoro."
    question = "Which telephone number did the laundry have?"
    return make_task("needle", laundry_number, question, _with_needle(rng, lines, needle), number)


def responsible_person(rng: random.Random) -> Task:
    people = ("Dagny Holm", "Ivo Marek", "Leah Stone", "Tariq Aziz", "Noor Haddad", "Per Lind")
    topics = ("the roof repair", "the summer fair", "the new boiler", "the parking plan", "the library", "the fence")
    chosen = rng.sample(people, len(topics))
    lines = prose(rng, 90)
    for topic, person in zip(topics, chosen, strict=True):
        lines.insert(rng.randrange(1, len(lines)), f"Decided: {person} takes care of {topic} until the next meeting.")
    index = rng.randrange(len(topics))
    question = f"Who takes care of {topics[index]}?"
    return make_task("needle", responsible_person, question, "\n".join(lines), chosen[index], people)


def checksum_of_build(rng: random.Random) -> Task:
    names = [f"{word}-{number}" for word in ("delta", "sigma", "omega") for number in range(1, 40)]
    sums = {name: f"{rng.getrandbits(48):012x}" for name in names}
    lines = service_log(rng, 2_200)
    for name, checksum in sums.items():
        lines.insert(rng.randrange(len(lines)), f"build {name} finished, checksum {checksum}, artefacts stored")
    wanted = rng.choice(names)
    question = f"What is the checksum of build {wanted}?"
    return make_task("needle", checksum_of_build, question, "\n".join(lines), sums[wanted], sums.values())


def room_number(rng: random.Random) -> Task:
    lines, person, number = _people_with_numbers(rng, "{person} has moved into room {number} for the winter.", 100, 999)
    return make_task("needle", room_number, f"What is the room number of {person}?", "\n".join(lines), number)


def phone_number(rng: random.Random) -> Task:
    lines, person, number = _people_with_numbers(rng, "{person} can be reached at extension {number}.", 2_000, 9_999)
    return make_task("needle", phone_number, f"What is the phone number of {person}?", "\n".join(lines), number)


def berth_of_ship(rng: random.Random) -> Task:
    ships = ("Aurora", "Brisling", "Calypso", "Dorado", "Eider", "Fulmar", "Gannet", "Heron")
    berths = rng.sample(range(10, 99), len(ships))
    lines = service_log(rng, 1_200)
    for ship, berth in zip(ships, berths, strict=True):
        lines.insert(rng.randrange(len(lines)), f"harbour: the {ship} is to moor at berth {berth} tonight")
    index = rng.randrange(len(ships))
    question = f"At which berth is the {ships[index]} to moor?"
    return make_task("needle", berth_of_ship, question, "\n".join(lines), berths[index])
