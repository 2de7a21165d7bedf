"""Questions over generated contexts, with exact answers, for measuring weak models. Pure; the seed decides everything.

There are four kinds. A `structural` question can be answered by code alone. The answer to a `needle` question stands at
one place in a long text. A `json` question is about records, in JSON or CSV. The answer to a `semantic` question
depends on the meaning of lines, not on any word in them.

Every kind has templates for development and templates that only held-out sets use. Runs over development sets may be
inspected while prompts are changed; held-out sets are only scored. The same seed gives the same bytes. The name of a
template function is part of its seed.
"""

import csv
import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import task_sentences

DEVELOPMENT_SEEDS = (0, 1)
HELD_OUT_SEEDS = (14, 15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A question, its context and the only right answer. `others` are wrong answers of the same kind."""

    kind: str
    template: str
    question: str
    context: str
    answer: str
    others: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Kind and template, for a table."""
        return f"{self.kind}/{self.template}"


Template = Callable[[random.Random], Task]

_MOST_ANSWER_CHARS = 200  # a longer reply may contain the right answer by chance


def development_tasks(seed: int) -> tuple[Task, ...]:
    """Tasks from the templates whose runs may be inspected, four of each kind."""
    return _made(DEVELOPMENT, seed)


def held_out_tasks(seed: int) -> tuple[Task, ...]:
    """For each kind, tasks from three development templates with another seed and from three unknown ones."""
    known = [template for kind in DEVELOPMENT for template in _chosen(kind, seed)]
    return _made([*_by_kind(known), *HELD_OUT], seed)


def unseen_tasks(seed: int) -> tuple[Task, ...]:
    """Tasks from templates that are newer than the rules for weak models, three of each kind."""
    return _made(UNSEEN, seed)


def is_right(task: Task, answer: object) -> bool:
    """Whether an answer contains the right word or number and no other, alone or in one short sentence."""
    if answer is None:
        return False
    text = _plain(str(answer))
    if len(text) > _MOST_ANSWER_CHARS:
        return False
    if re.fullmatch(r"-?\d+(\.\d+)?", task.answer):
        numbers = {float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)}
        return numbers == {float(task.answer)}
    return _holds(text, task.answer) and not any(_holds(text, other) for other in task.others)


def _plain(text: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", text).strip().casefold()


def _holds(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(word.casefold())}(?![\w-]|\.\w)", text) is not None


def _made(kinds: Iterable[Sequence[Template]], seed: int) -> tuple[Task, ...]:
    # Every template has its own generator, so adding one changes no other.
    return tuple(template(random.Random(f"{template.__name__} {seed}")) for kind in kinds for template in kind)


def _chosen(kind: Sequence[Template], seed: int) -> Sequence[Template]:
    return [template for index, template in enumerate(kind) if index != seed % len(kind)]


def _by_kind(templates: Sequence[Template]) -> list[Sequence[Template]]:
    return [[one for one in templates if one in kind] for kind in DEVELOPMENT]


def _task(
    kind: str, made_by: Template, question: str, context: str, answer: object, others: Iterable[str] = ()
) -> Task:
    said = str(answer)
    wrong = frozenset(others) - {said}
    name = made_by.__name__
    return Task(kind=kind, template=name, question=question, context=context, answer=said, others=wrong)


# --- structural ---------------------------------------------------------------------------------------------------

_LEVELS = ("DEBUG", "INFO", "INFO", "INFO", "WARN", "ERROR")
_COMPONENTS = ("gateway", "billing", "mailer", "indexer", "scheduler")
_PATHS = ("/", "/login", "/search", "/cart", "/help", "/api/items", "/api/orders")


def _service_log(rng: random.Random, lines: int, *, days: int = 1) -> list[str]:
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
        made.append(f"2026-05-{day + 3:02d} {clock} {level} [{rng.choice(_COMPONENTS)}] {text}")
    return made


def _access_log(rng: random.Random, lines: int, addresses: int) -> list[str]:
    clients = [f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}" for _ in range(addresses)]
    return [
        f'{rng.choice(clients)} - - [12/May/2026:10:{index // 60 % 60:02d}:{index % 60:02d}] "GET {rng.choice(_PATHS)}'
        f' HTTP/1.1" {rng.choice((200, 200, 200, 304, 404, 500))} {rng.randrange(200, 9_000)} {rng.randrange(3, 900)}ms'
        for index in range(lines)
    ]


def level_count(rng: random.Random) -> Task:
    lines = _service_log(rng, rng.randrange(90, 130))
    count = sum(line.split()[2] == "WARN" for line in lines)
    return _task("structural", level_count, "How many lines have the level WARN?", "\n".join(lines), count)


def distinct_clients(rng: random.Random) -> Task:
    lines = _access_log(rng, rng.randrange(70, 100), rng.randrange(14, 30))
    count = len({line.split()[0] for line in lines})
    question = "How many different client addresses occur in the log?"
    return _task("structural", distinct_clients, question, "\n".join(lines), count)


def busiest_component(rng: random.Random) -> Task:
    lines = _service_log(rng, 1_800)
    counts = Counter(line.split("[")[1].split("]")[0] for line in lines).most_common()
    favourite = counts[0][0]
    lines += [line for line in _service_log(rng, 200) if f"[{favourite}]" in line]  # no tie
    question = "Which component (the name in square brackets) wrote the most lines?"
    return _task("structural", busiest_component, question, "\n".join(lines), favourite, _COMPONENTS)


def slowest_request(rng: random.Random) -> Task:
    lines = _access_log(rng, rng.randrange(80, 110), 20)
    slowest = max(int(line.rsplit(" ", 1)[1].removesuffix("ms")) for line in lines)
    question = "What is the longest response time in the log, in milliseconds?"
    return _task("structural", slowest_request, question, "\n".join(lines), slowest)


def errors_of_client(rng: random.Random) -> Task:
    lines = _access_log(rng, rng.randrange(80, 110), 5)
    client = Counter(line.split()[0] for line in lines).most_common(1)[0][0]
    count = sum(line.split()[0] == client and line.split()[7] == "404" for line in lines)
    question = f"How many requests of the address {client} were answered with status 404?"
    return _task("structural", errors_of_client, question, "\n".join(lines), count)


def worst_day(rng: random.Random) -> Task:
    lines = _service_log(rng, 2_500, days=9)
    counts = Counter(line.split()[0] for line in lines if line.split()[2] == "ERROR").most_common(2)
    if counts[0][1] == counts[1][1]:
        return worst_day(rng)
    days = {line.split()[0] for line in lines}
    question = "On which day were the most lines of level ERROR written? Answer as YYYY-MM-DD."
    return _task("structural", worst_day, question, "\n".join(lines), counts[0][0], days)


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
    return _task("structural", functions_in_module, question, "\n".join(lines), count)


# --- records: JSON and CSV ----------------------------------------------------------------------------------------

_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana")


def _orders(rng: random.Random, count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": 4_000 + index,
            "customer": rng.choice(_NAMES),
            "amount": rng.randrange(1, 500),
            "status": rng.choice(("open", "closed", "held")),
        }
        for index in range(count)
    ]


def sum_of_open(rng: random.Random) -> Task:
    orders = _orders(rng, rng.randrange(50, 70))
    total = sum(order["amount"] for order in orders if order["status"] == "open")
    question = 'What is the sum of the amounts of all records with the status "open"?'
    return _task("json", sum_of_open, question, json.dumps(orders), total)


def best_customer(rng: random.Random) -> Task:
    orders = _orders(rng, 400)
    totals: Counter[str] = Counter()
    for order in orders:
        totals[order["customer"]] += order["amount"]
    best = totals.most_common(1)[0][0]
    question = "Which customer has the highest total amount?"
    return _task("json", best_customer, question, "\n".join(map(json.dumps, orders)), best, _NAMES)


def nested_country(rng: random.Random) -> Task:
    countries = ("NO", "SE", "DK", "FI", "IS")
    records: list[dict[str, Any]] = [
        {
            "number": index,
            "buyer": {
                "name": rng.choice(_NAMES),
                "address": {"city": f"City {index % 9}", "country": rng.choice(countries)},
            },
        }
        for index in range(1, rng.randrange(45, 60))
    ]
    count = sum(record["buyer"]["address"]["country"] == "SE" for record in records)
    question = "How many of the orders have a buyer whose country is SE?"
    return _task("json", nested_country, question, json.dumps({"orders": records}, indent=1), count)


def record_by_id(rng: random.Random) -> Task:
    orders = _orders(rng, rng.randrange(60, 75))
    for order in orders:
        order["email"] = f"{order['customer'].lower()}{rng.randrange(100, 999)}@example.org"
    wanted = rng.choice(orders)
    question = f"What is the email of the record with the id {wanted['id']}?"
    others = {order["email"] for order in orders}
    return _task("json", record_by_id, question, "\n".join(map(json.dumps, orders)), wanted["email"], others)


def users_by_role(rng: random.Random) -> Task:
    roles = ("admin", "editor", "reader", "reader")
    users = {
        f"u{rng.randrange(1_000, 9_999)}": {
            "name": rng.choice(_NAMES),
            "role": rng.choice(roles),
            "logins": rng.randrange(90),
        }
        for _ in range(rng.randrange(60, 80))
    }
    count = sum(user["role"] == "editor" for user in users.values())
    question = "How many users have the role editor?"
    return _task("json", users_by_role, question, json.dumps({"version": 3, "users": users}), count)


def csv_quantity(rng: random.Random) -> Task:
    goods = ("kettle", "lamp", "jacket", "notebook", "pump")
    rows = [
        (f"2026-03-{rng.randrange(1, 29):02d}", rng.choice(goods), rng.randrange(1, 40), rng.choice(("Oslo", "Turku")))
        for _ in range(rng.randrange(1_100, 1_300))
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("date", "product", "quantity", "store"), *rows])
    total = sum(quantity for _, product, quantity, _ in rows if product == "lamp")
    question = "What is the total quantity of the product lamp over all rows?"
    return _task("json", csv_quantity, question, text.getvalue(), total)


def commonest_tag(rng: random.Random) -> Task:
    tags = ("garden", "music", "travel", "food", "chess", "film")
    notes: list[dict[str, Any]] = [
        {"title": f"Note {index}", "tags": rng.sample(tags, rng.randrange(1, 4)), "stars": rng.randrange(6)}
        for index in range(70)
    ]
    counts = Counter(tag for note in notes for tag in note["tags"]).most_common(2)
    if counts[0][1] == counts[1][1]:
        return commonest_tag(rng)
    question = "Which tag occurs in the most notes?"
    return _task("json", commonest_tag, question, json.dumps(notes), counts[0][0], tags)


# --- needles ------------------------------------------------------------------------------------------------------


def _prose(rng: random.Random, sentences: int, *, in_paragraph: int = 5) -> list[str]:
    """Paragraphs of an invented chronicle, one paragraph a line."""
    parts = (
        task_sentences.TIMES,
        task_sentences.SUBJECTS,
        task_sentences.ACTIONS,
        task_sentences.PLACES,
    )
    made = [" ".join(map(rng.choice, parts)) + "." for _ in range(sentences)]
    return [" ".join(made[at : at + in_paragraph]) for at in range(0, sentences, in_paragraph)]


def _with_needle(rng: random.Random, lines: list[str], needle: str) -> str:
    at = rng.randrange(len(lines) // 10, len(lines) * 9 // 10)
    return "\n".join([*lines[:at], needle, *lines[at:]])


def access_code(rng: random.Random) -> Task:
    project, code = (
        rng.choice(("zephyr", "orion", "larch")),
        f"{rng.choice(('trunk', 'kestrel', 'amber'))}-{rng.randrange(100, 999)}",
    )
    text = _with_needle(rng, _service_log(rng, 100), f"NOTE: the access code of project {project} is {code}.")
    return _task("needle", access_code, f"What is the access code of project {project}?", text, code)


def home_town(rng: random.Random) -> Task:
    towns = ("Hallvik", "Morsund", "Tarnby", "Ekeby", "Skarvik")
    town, other = rng.sample(towns, 2)
    lines = _prose(rng, 150)
    at = rng.randrange(3, len(lines) - 3)
    lines[at] += f" In those years the cartographer Elva Brandt lived in {town} and drew her maps there."
    lines[1] += f" The cartographer Piet Brandt had his workshop in {other}."
    question = "In which town did the cartographer Elva Brandt live?"
    return _task("needle", home_town, question, "\n".join(lines), town, towns)


_SERVICES = ("mail", "web", "sync", "audit", "print", "cache", "report", "backup")


def option_of_section(rng: random.Random) -> Task:
    names = [f"{one}_{two}" for one in _SERVICES for two in ("in", "out", "test", "old", "new")]
    timeouts = rng.sample(range(10, 999), len(names))
    lines = []
    for name, timeout in zip(names, timeouts, strict=True):
        lines += [f"[{name}]", f"host = {name.replace('_', '-')}.example.org", f"port = {rng.randrange(1_024, 65_000)}"]
        lines += [f"timeout = {timeout}", f"retries = {rng.randrange(9)}", f"user = svc{rng.randrange(10, 99)}", ""]
    index = rng.randrange(len(names))
    question = f"What is the timeout in the section {names[index]}?"
    return _task("needle", option_of_section, question, "\n".join(lines), timeouts[index])


def replaced_version(rng: random.Random) -> Task:
    old, new = (
        f"{rng.randrange(2, 5)}.{rng.randrange(10)}",
        f"{rng.randrange(5, 9)}.{rng.randrange(10)}.{rng.randrange(10)}",
    )
    lines = _prose(rng, 900)  # more than a small window holds
    text = _with_needle(rng, lines, f"The harvest parser {old} was superseded by release {new} after the audit.")
    return _task("needle", replaced_version, f"Which release superseded the harvest parser {old}?", text, new)


def laundry_number(rng: random.Random) -> Task:
    number = rng.randrange(2_000, 9_999)
    lines = _prose(rng, 110)
    needle = f"Whoever had washing to be done was to dial {number} and ask for Mrs. Okoro."
    question = "Which telephone number did the laundry have?"
    return _task("needle", laundry_number, question, _with_needle(rng, lines, needle), number)


def responsible_person(rng: random.Random) -> Task:
    people = ("Dagny Holm", "Ivo Marek", "Leah Stone", "Tariq Aziz", "Noor Haddad", "Per Lind")
    topics = ("the roof repair", "the summer fair", "the new boiler", "the parking plan", "the library", "the fence")
    chosen = rng.sample(people, len(topics))
    lines = _prose(rng, 90)
    for topic, person in zip(topics, chosen, strict=True):
        lines.insert(rng.randrange(1, len(lines)), f"Decided: {person} takes care of {topic} until the next meeting.")
    index = rng.randrange(len(topics))
    question = f"Who takes care of {topics[index]}?"
    return _task("needle", responsible_person, question, "\n".join(lines), chosen[index], people)


def checksum_of_build(rng: random.Random) -> Task:
    names = [f"{word}-{number}" for word in ("delta", "sigma", "omega") for number in range(1, 40)]
    sums = {name: f"{rng.getrandbits(48):012x}" for name in names}
    lines = _service_log(rng, 2_200)
    for name, checksum in sums.items():
        lines.insert(rng.randrange(len(lines)), f"build {name} finished, checksum {checksum}, artefacts stored")
    wanted = rng.choice(names)
    question = f"What is the checksum of build {wanted}?"
    return _task("needle", checksum_of_build, question, "\n".join(lines), sums[wanted], sums.values())


# --- meaning ------------------------------------------------------------------------------------------------------


def _mixed(rng: random.Random, *groups: Iterable[str]) -> list[str]:
    lines = [line for group in groups for line in group]
    rng.shuffle(lines)
    return lines


def praising_reviews(rng: random.Random) -> Task:
    good, bad = rng.randrange(8, 16), rng.randrange(8, 16)
    lines = _mixed(
        rng, rng.sample(task_sentences.POSITIVE_REVIEWS, good), rng.sample(task_sentences.NEGATIVE_REVIEWS, bad)
    )
    question = "Each line is a review of a film. How many of the reviews are positive?"
    return _task("semantic", praising_reviews, question, "\n".join(lines), good)


def ticket_about(rng: random.Random) -> Task:
    topic = rng.choice(sorted(task_sentences.TICKETS))
    rest = [text for other, texts in task_sentences.TICKETS.items() if other != topic for text in texts]
    texts = _mixed(rng, rest, [rng.choice(task_sentences.TICKETS[topic])])
    ids = rng.sample(range(100, 999), len(texts))
    lines = [f"T-{number}: {text}" for number, text in zip(ids, texts, strict=True)]
    wanted = next(line for line in lines if line.split(": ", 1)[1] in task_sentences.TICKETS[topic]).split(":")[0]
    question = f"Exactly one of these support tickets is about {topic}. What is its id?"
    return _task("semantic", ticket_about, question, "\n".join(lines), wanted, (line.split(":")[0] for line in lines))


def product_with_complaints(rng: random.Random) -> Task:
    goods = ("kettle", "lamp", "jacket", "radio")
    worst = rng.choice(goods)
    good, bad = iter(rng.sample(task_sentences.POSITIVE_REMARKS, 18)), iter(rng.sample(task_sentences.COMPLAINTS, 12))
    lines = []
    for one in goods:
        lines += [f"{one}: {next(bad)}" for _ in range(6 if one == worst else 2)]
        lines += [f"{one}: {next(good)}" for _ in range(3 if one == worst else 5)]
    rng.shuffle(lines)
    question = "Each line is a customer's remark on a product. Which product got the most complaints?"
    return _task("semantic", product_with_complaints, question, "\n".join(lines), worst, goods)


def questions_for_a_place(rng: random.Random) -> Task:
    count = rng.randrange(6, 13)
    rest = [text for kind in ("person", "time") for text in rng.sample(task_sentences.QUESTIONS[kind], 8)]
    lines = _mixed(rng, rng.sample(task_sentences.QUESTIONS["place"], count), rest)
    question = "Each line is a question. How many of them ask for a place?"
    return _task("semantic", questions_for_a_place, question, "\n".join(lines), count)


def messages_about_food(rng: random.Random) -> Task:
    count = rng.randrange(6, 13)
    rest = [text for topic in ("weather", "sport") for text in rng.sample(task_sentences.MESSAGES[topic], 8)]
    lines = _mixed(rng, rng.sample(task_sentences.MESSAGES["food"], count), rest)
    question = "Each line is a message. How many of the messages are about food?"
    return _task("semantic", messages_about_food, question, "\n".join(lines), count)


def day_of_the_accident(rng: random.Random) -> Task:
    texts = _mixed(rng, task_sentences.DIARY, [rng.choice(task_sentences.ACCIDENTS)])
    days = [f"2026-{4 + index // 28:02d}-{index % 28 + 1:02d}" for index in range(len(texts))]
    lines = [f"{day}: {text}" for day, text in zip(days, texts, strict=True)]
    wanted = next(day for day, text in zip(days, texts, strict=True) if text in task_sentences.ACCIDENTS)
    question = "On which date does the diary tell of an accident in which somebody was hurt? Answer as YYYY-MM-DD."
    return _task("semantic", day_of_the_accident, question, "\n".join(lines), wanted, days)


def unhappy_guests(rng: random.Random) -> Task:
    bad, good = rng.randrange(5, 10), rng.randrange(8, 14)
    lines = _mixed(
        rng, rng.sample(task_sentences.DISSATISFIED_GUESTS, bad), rng.sample(task_sentences.SATISFIED_GUESTS, good)
    )
    question = "Each line is what a guest of a hotel wrote. How many of the guests were dissatisfied?"
    return _task("semantic", unhappy_guests, question, "\n".join(lines), bad)


# --- templates that are newer than the rules for weak models ---------------------------------------------------------


def failed_passwords(rng: random.Random) -> Task:
    texts = []
    for _ in range(rng.randrange(90, 130)):
        user = rng.choice(_NAMES).lower()
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
    return _task("structural", failed_passwords, question, "\n".join(lines), count)


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
    return _task("structural", declined_payments, question, "\n".join(lines), count)


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
    return _task("structural", busiest_hour, question, "\n".join(lines), counts[0][0], hours)


def _people_with_numbers(rng: random.Random, form: str, low: int, high: int) -> tuple[list[str], str, int]:
    people = ("Dagny Holm", "Ivo Marek", "Leah Stone", "Tariq Aziz", "Noor Haddad", "Per Lind", "Una Brandt")
    numbers = rng.sample(range(low, high), len(people))
    lines = _prose(rng, 120)
    for person, number in zip(people, numbers, strict=True):
        lines.insert(rng.randrange(1, len(lines)), form.format(person=person, number=number))
    index = rng.randrange(len(people))
    return lines, people[index], numbers[index]


def room_number(rng: random.Random) -> Task:
    lines, person, number = _people_with_numbers(rng, "{person} has moved into room {number} for the winter.", 100, 999)
    return _task("needle", room_number, f"What is the room number of {person}?", "\n".join(lines), number)


def phone_number(rng: random.Random) -> Task:
    lines, person, number = _people_with_numbers(rng, "{person} can be reached at extension {number}.", 2_000, 9_999)
    return _task("needle", phone_number, f"What is the phone number of {person}?", "\n".join(lines), number)


def berth_of_ship(rng: random.Random) -> Task:
    ships = ("Aurora", "Brisling", "Calypso", "Dorado", "Eider", "Fulmar", "Gannet", "Heron")
    berths = rng.sample(range(10, 99), len(ships))
    lines = _service_log(rng, 1_200)
    for ship, berth in zip(ships, berths, strict=True):
        lines.insert(rng.randrange(len(lines)), f"harbour: the {ship} is to moor at berth {berth} tonight")
    index = rng.randrange(len(ships))
    question = f"At which berth is the {ships[index]} to moor?"
    return _task("needle", berth_of_ship, question, "\n".join(lines), berths[index])


def adults_in_city(rng: random.Random) -> Task:
    people = [
        {"name": rng.choice(_NAMES), "age": rng.randrange(5, 80), "city": rng.choice(("Oslo", "Turku", "Visby"))}
        for _ in range(rng.randrange(60, 80))
    ]
    count = sum(person["city"] == "Turku" and int(person["age"]) >= 18 for person in people)
    question = "How many persons of 18 years or more live in Turku?"
    return _task("json", adults_in_city, question, json.dumps({"persons": people}), count)


def dearest_booking(rng: random.Random) -> Task:
    prices = rng.sample(range(50, 900), 70)
    rows = [(f"B{1_000 + index}", rng.choice(_NAMES), price) for index, price in enumerate(prices)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("booking", "guest", "price"), *rows])
    dearest = max(rows, key=lambda row: row[2])[0]
    question = "Which booking has the highest price? Answer with its id."
    return _task("json", dearest_booking, question, text.getvalue(), dearest, (row[0] for row in rows))


def unpaid_total(rng: random.Random) -> Task:
    invoices = [
        {"no": 70 + index, "total": rng.randrange(10, 300), "paid": rng.random() < 0.6}
        for index in range(rng.randrange(50, 70))
    ]
    total = sum(int(invoice["total"]) for invoice in invoices if not invoice["paid"])
    question = "What is the sum of the totals of all invoices that are not paid?"
    return _task("json", unpaid_total, question, "\n".join(map(json.dumps, invoices)), total)


def only_message_about_sport(rng: random.Random) -> Task:
    texts = rng.sample(task_sentences.MESSAGES["food"], 9) + rng.sample(task_sentences.MESSAGES["weather"], 7)
    wanted_text = rng.choice(task_sentences.MESSAGES["sport"])
    lines = [f"M{100 + index}: {text}" for index, text in enumerate(_mixed(rng, texts, [wanted_text]))]
    wanted = next(line.split(":")[0] for line in lines if line.endswith(wanted_text))
    question = "What is the id of the only message that is about sport?"
    ids = [line.split(":")[0] for line in lines]
    return _task("semantic", only_message_about_sport, question, "\n".join(lines), wanted, ids)


def remarks_that_complain(rng: random.Random) -> Task:
    bad, good = rng.randrange(5, 10), rng.randrange(7, 12)
    lines = _mixed(rng, rng.sample(task_sentences.COMPLAINTS, bad), rng.sample(task_sentences.POSITIVE_REMARKS, good))
    question = "Each line is a remark on a product. How many of the remarks are complaints?"
    return _task("semantic", remarks_that_complain, question, "\n".join(lines), bad)


def commonest_topic(rng: random.Random) -> Task:
    topics = ("food", "weather", "sport")
    first = rng.choice(topics)
    groups = [rng.sample(task_sentences.MESSAGES[one], 11 if one == first else 5) for one in topics]
    question = "Each line is a message about food, weather or sport. Which of the three are most messages about?"
    return _task("semantic", commonest_topic, question, "\n".join(_mixed(rng, *groups)), first, topics)


DEVELOPMENT: tuple[tuple[Template, ...], ...] = (
    (level_count, distinct_clients, busiest_component, slowest_request),
    (access_code, home_town, option_of_section, replaced_version),
    (sum_of_open, best_customer, nested_country, record_by_id),
    (praising_reviews, ticket_about, product_with_complaints, questions_for_a_place),
)
HELD_OUT: tuple[tuple[Template, ...], ...] = (
    (errors_of_client, worst_day, functions_in_module),
    (laundry_number, responsible_person, checksum_of_build),
    (users_by_role, csv_quantity, commonest_tag),
    (messages_about_food, day_of_the_accident, unhappy_guests),
)
UNSEEN: tuple[tuple[Template, ...], ...] = (
    (failed_passwords, declined_payments, busiest_hour),
    (room_number, phone_number, berth_of_ship),
    (adults_in_city, dearest_booking, unpaid_total),
    (only_message_about_sport, remarks_that_complain, commonest_topic),
)
