"""Questions about records, in JSON or CSV."""

import csv
import io
import json
import random
from collections import Counter
from typing import Any

from benchmarks.tasks.texts import NAMES, make_orders
from benchmarks.tasks.types import Task, make_task


def sum_of_open(rng: random.Random) -> Task:
    orders = make_orders(rng, rng.randrange(50, 70))
    total = sum(order["amount"] for order in orders if order["status"] == "open")
    question = 'What is the sum of the amounts of all records with the status "open"?'
    return make_task("json", sum_of_open, question, json.dumps(orders), total)


def best_customer(rng: random.Random) -> Task:
    orders = make_orders(rng, 400)
    totals: Counter[str] = Counter()
    for order in orders:
        totals[order["customer"]] += order["amount"]
    best = totals.most_common(1)[0][0]
    question = "Which customer has the highest total amount?"
    return make_task("json", best_customer, question, "\n".join(map(json.dumps, orders)), best, NAMES)


def nested_country(rng: random.Random) -> Task:
    countries = ("NO", "SE", "DK", "FI", "IS")
    records: list[dict[str, Any]] = [
        {
            "number": index,
            "buyer": {
                "name": rng.choice(NAMES),
                "address": {"city": f"City {index % 9}", "country": rng.choice(countries)},
            },
        }
        for index in range(1, rng.randrange(45, 60))
    ]
    count = sum(record["buyer"]["address"]["country"] == "SE" for record in records)
    question = "How many of the orders have a buyer whose country is SE?"
    return make_task("json", nested_country, question, json.dumps({"orders": records}, indent=1), count)


def record_by_id(rng: random.Random) -> Task:
    orders = make_orders(rng, rng.randrange(60, 75))
    for order in orders:
        order["email"] = f"{order['customer'].lower()}{rng.randrange(100, 999)}@example.org"
    wanted = rng.choice(orders)
    question = f"What is the email of the record with the id {wanted['id']}?"
    others = {order["email"] for order in orders}
    return make_task("json", record_by_id, question, "\n".join(map(json.dumps, orders)), wanted["email"], others)


def users_by_role(rng: random.Random) -> Task:
    roles = ("admin", "editor", "reader", "reader")
    users = {
        f"u{rng.randrange(1_000, 9_999)}": {
            "name": rng.choice(NAMES),
            "role": rng.choice(roles),
            "logins": rng.randrange(90),
        }
        for _ in range(rng.randrange(60, 80))
    }
    count = sum(user["role"] == "editor" for user in users.values())
    question = "How many users have the role editor?"
    return make_task("json", users_by_role, question, json.dumps({"version": 3, "users": users}), count)


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
    return make_task("json", csv_quantity, question, text.getvalue(), total)


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
    return make_task("json", commonest_tag, question, json.dumps(notes), counts[0][0], tags)


def adults_in_city(rng: random.Random) -> Task:
    people = [
        {"name": rng.choice(NAMES), "age": rng.randrange(5, 80), "city": rng.choice(("Oslo", "Turku", "Visby"))}
        for _ in range(rng.randrange(60, 80))
    ]
    count = sum(person["city"] == "Turku" and int(person["age"]) >= 18 for person in people)
    question = "How many persons of 18 years or more live in Turku?"
    return make_task("json", adults_in_city, question, json.dumps({"persons": people}), count)


def dearest_booking(rng: random.Random) -> Task:
    prices = rng.sample(range(50, 900), 70)
    rows = [(f"B{1_000 + index}", rng.choice(NAMES), price) for index, price in enumerate(prices)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("booking", "guest", "price"), *rows])
    dearest = max(rows, key=lambda row: row[2])[0]
    question = "Which booking has the highest price? Answer with its id."
    return make_task("json", dearest_booking, question, text.getvalue(), dearest, (row[0] for row in rows))


def unpaid_total(rng: random.Random) -> Task:
    invoices = [
        {"no": 70 + index, "total": rng.randrange(10, 300), "paid": rng.random() < 0.6}
        for index in range(rng.randrange(50, 70))
    ]
    total = sum(int(invoice["total"]) for invoice in invoices if not invoice["paid"])
    question = "What is the sum of the totals of all invoices that are not paid?"
    return make_task("json", unpaid_total, question, "\n".join(map(json.dumps, invoices)), total)
