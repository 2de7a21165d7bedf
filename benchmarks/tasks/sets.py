"""Questions over generated contexts, with exact answers, for measuring weak models. Pure; the seed decides everything.

There are four kinds. A `structural` question can be answered by code alone. The answer to a `needle` question stands at
one place in a long text. A `json` question is about records, in JSON or CSV. The answer to a `semantic` question
depends on the meaning of lines, not on any word in them.

Every kind has templates for development and templates that only held-out sets use. Runs over development sets may be
inspected while prompts are changed; held-out sets are only scored. The same seed gives the same bytes. The name of a
template function is part of its seed.
"""

import random
from collections.abc import Iterable, Sequence

from benchmarks.tasks import meaning, needles, records, structural
from benchmarks.tasks.types import Task, Template

DEVELOPMENT_SEEDS = (0, 1)
HELD_OUT_SEEDS = (14, 15)

DEVELOPMENT: tuple[tuple[Template, ...], ...] = (
    (structural.level_count, structural.distinct_clients, structural.busiest_component, structural.slowest_request),
    (needles.access_code, needles.home_town, needles.option_of_section, needles.replaced_version),
    (records.sum_of_open, records.best_customer, records.nested_country, records.record_by_id),
    (meaning.praising_reviews, meaning.ticket_about, meaning.product_with_complaints, meaning.questions_for_a_place),
)
HELD_OUT: tuple[tuple[Template, ...], ...] = (
    (structural.errors_of_client, structural.worst_day, structural.functions_in_module),
    (needles.laundry_number, needles.responsible_person, needles.checksum_of_build),
    (records.users_by_role, records.csv_quantity, records.commonest_tag),
    (meaning.messages_about_food, meaning.day_of_the_accident, meaning.unhappy_guests),
)
UNSEEN: tuple[tuple[Template, ...], ...] = (
    (structural.failed_passwords, structural.declined_payments, structural.busiest_hour),
    (needles.room_number, needles.phone_number, needles.berth_of_ship),
    (records.adults_in_city, records.dearest_booking, records.unpaid_total),
    (meaning.only_message_about_sport, meaning.remarks_that_complain, meaning.commonest_topic),
)


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


def _made(kinds: Iterable[Sequence[Template]], seed: int) -> tuple[Task, ...]:
    # Every template has its own generator, so adding one changes no other.
    return tuple(template(random.Random(f"{template.__name__} {seed}")) for kind in kinds for template in kind)


def _chosen(kind: Sequence[Template], seed: int) -> Sequence[Template]:
    return [template for index, template in enumerate(kind) if index != seed % len(kind)]


def _by_kind(templates: Sequence[Template]) -> list[Sequence[Template]]:
    return [[one for one in templates if one in kind] for kind in DEVELOPMENT]
