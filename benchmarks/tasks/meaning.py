"""Questions whose answer depends on the meaning of lines, not on any word in them."""

import random

from benchmarks.tasks import sentences
from benchmarks.tasks.texts import mixed
from benchmarks.tasks.types import Task, make_task


def praising_reviews(rng: random.Random) -> Task:
    good, bad = rng.randrange(8, 16), rng.randrange(8, 16)
    lines = mixed(rng, rng.sample(sentences.POSITIVE_REVIEWS, good), rng.sample(sentences.NEGATIVE_REVIEWS, bad))
    question = "Each line is a review of a film. How many of the reviews are positive?"
    return make_task("semantic", praising_reviews, question, "\n".join(lines), good)


def ticket_about(rng: random.Random) -> Task:
    topic = rng.choice(sorted(sentences.TICKETS))
    rest = [text for other, texts in sentences.TICKETS.items() if other != topic for text in texts]
    texts = mixed(rng, rest, [rng.choice(sentences.TICKETS[topic])])
    ids = rng.sample(range(100, 999), len(texts))
    lines = [f"T-{number}: {text}" for number, text in zip(ids, texts, strict=True)]
    wanted = next(line for line in lines if line.split(": ", 1)[1] in sentences.TICKETS[topic]).split(":")[0]
    question = f"Exactly one of these support tickets is about {topic}. What is its id?"
    return make_task(
        "semantic", ticket_about, question, "\n".join(lines), wanted, (line.split(":")[0] for line in lines)
    )


def product_with_complaints(rng: random.Random) -> Task:
    goods = ("kettle", "lamp", "jacket", "radio")
    worst = rng.choice(goods)
    good, bad = iter(rng.sample(sentences.POSITIVE_REMARKS, 18)), iter(rng.sample(sentences.COMPLAINTS, 12))
    lines = []
    for one in goods:
        lines += [f"{one}: {next(bad)}" for _ in range(6 if one == worst else 2)]
        lines += [f"{one}: {next(good)}" for _ in range(3 if one == worst else 5)]
    rng.shuffle(lines)
    question = "Each line is a customer's remark on a product. Which product got the most complaints?"
    return make_task("semantic", product_with_complaints, question, "\n".join(lines), worst, goods)


def questions_for_a_place(rng: random.Random) -> Task:
    count = rng.randrange(6, 13)
    rest = [text for kind in ("person", "time") for text in rng.sample(sentences.QUESTIONS[kind], 8)]
    lines = mixed(rng, rng.sample(sentences.QUESTIONS["place"], count), rest)
    question = "Each line is a question. How many of them ask for a place?"
    return make_task("semantic", questions_for_a_place, question, "\n".join(lines), count)


def messages_about_food(rng: random.Random) -> Task:
    count = rng.randrange(6, 13)
    rest = [text for topic in ("weather", "sport") for text in rng.sample(sentences.MESSAGES[topic], 8)]
    lines = mixed(rng, rng.sample(sentences.MESSAGES["food"], count), rest)
    question = "Each line is a message. How many of the messages are about food?"
    return make_task("semantic", messages_about_food, question, "\n".join(lines), count)


def day_of_the_accident(rng: random.Random) -> Task:
    texts = mixed(rng, sentences.DIARY, [rng.choice(sentences.ACCIDENTS)])
    days = [f"2026-{4 + index // 28:02d}-{index % 28 + 1:02d}" for index in range(len(texts))]
    lines = [f"{day}: {text}" for day, text in zip(days, texts, strict=True)]
    wanted = next(day for day, text in zip(days, texts, strict=True) if text in sentences.ACCIDENTS)
    question = "On which date does the diary tell of an accident in which somebody was hurt? Answer as YYYY-MM-DD."
    return make_task("semantic", day_of_the_accident, question, "\n".join(lines), wanted, days)


def unhappy_guests(rng: random.Random) -> Task:
    bad, good = rng.randrange(5, 10), rng.randrange(8, 14)
    lines = mixed(rng, rng.sample(sentences.DISSATISFIED_GUESTS, bad), rng.sample(sentences.SATISFIED_GUESTS, good))
    question = "Each line is what a guest of a hotel wrote. How many of the guests were dissatisfied?"
    return make_task("semantic", unhappy_guests, question, "\n".join(lines), bad)


def only_message_about_sport(rng: random.Random) -> Task:
    texts = rng.sample(sentences.MESSAGES["food"], 9) + rng.sample(sentences.MESSAGES["weather"], 7)
    wanted_text = rng.choice(sentences.MESSAGES["sport"])
    lines = [f"M{100 + index}: {text}" for index, text in enumerate(mixed(rng, texts, [wanted_text]))]
    wanted = next(line.split(":")[0] for line in lines if line.endswith(wanted_text))
    question = "What is the id of the only message that is about sport?"
    ids = [line.split(":")[0] for line in lines]
    return make_task("semantic", only_message_about_sport, question, "\n".join(lines), wanted, ids)


def remarks_that_complain(rng: random.Random) -> Task:
    bad, good = rng.randrange(5, 10), rng.randrange(7, 12)
    lines = mixed(rng, rng.sample(sentences.COMPLAINTS, bad), rng.sample(sentences.POSITIVE_REMARKS, good))
    question = "Each line is a remark on a product. How many of the remarks are complaints?"
    return make_task("semantic", remarks_that_complain, question, "\n".join(lines), bad)


def commonest_topic(rng: random.Random) -> Task:
    topics = ("food", "weather", "sport")
    first = rng.choice(topics)
    groups = [
        rng.sample(sentences.MESSAGES[one], min(11, len(sentences.MESSAGES[one])) if one == first else 5)
        for one in topics
    ]
    question = "Each line is a message about food, weather or sport. Which of the three are most messages about?"
    return make_task("semantic", commonest_topic, question, "\n".join(mixed(rng, *groups)), first, topics)
