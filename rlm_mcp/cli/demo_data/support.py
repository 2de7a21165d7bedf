"""Generates the support desk of an invented bank on the days around an incident; the bytes are the same every time.

    python -m rlm_mcp.cli.demo_data.support [TRAIN.csv]

`messages.jsonl` has the messages of customers, `customers.csv` their plans and countries, and `incident.txt` the
channel in which engineers looked for the cause. Which country was hit, which of five suspects was the cause, and which
was believed first and withdrawn is drawn from the seed.

The texts of the messages are sentences of customers from BANKING77 (see NOTICE). `banking77.csv` has those that are
used, with their published intents; it is drawn anew if the file of the data set is named.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlm_mcp.cli.demo_data.dice import Dice

HERE = Path(__file__).parent
SEED = 20261014
DAYS, INCIDENT_DAY = (12, 13, 14, 15), 14
DECLINED = "declined_card_payment"
DECLINED_TEXTS, OTHER_TEXTS = 56, 384
PLANS = ("personal", "personal", "personal", "business", "business")
COUNTRIES = ("Portugal", "Poland", "Ireland", "Austria", "Greece", "Latvia")
PEOPLE = ("ana", "bartek", "chiara", "dov", "emeka", "freya", "goran", "hana")


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A possible cause of the incident, in the words of the people in the channel."""

    name: str
    raised: str
    doubted: str
    excluded: str
    believed: str
    proof: str
    fix: str


SUSPECTS = (
    Suspect(
        name="fraud rules",
        raised="fraud rules release 41 went out last night, could the new velocity rule be eating these?",
        doubted="the decline code would be 59 then, and I see 05",
        excluded="replayed 200 of the declined requests against release 40 and 41: same decisions, not the fraud rules",
        believed="the velocity rule of release 41 counts every business card twice",
        proof="all 200 sampled requests carry rule id V-17, and with V-17 off each of them is approved",
        fix="release 41 is withdrawn, release 40 is live on all nodes",
    ),
    Suspect(
        name="card-range table",
        raised="the card-range table was refreshed this morning, is anything missing in it?",
        doubted="the refresh diff shows 12 changed rows, that is a normal day",
        excluded="compared the range table with last week's copy row by row: every range we issue is there",
        believed="the refresh dropped ranges, so these cards look foreign and get sent to the wrong switch",
        proof="4 ranges with prefix 5319 are missing from the table, and every declined card is in one of them",
        fix="the 4 ranges are loaded again from Monday's copy, table version 882",
    ),
    Suspect(
        name="processor certificate",
        raised="the processor renewed its certificate at night, do we still trust the chain?",
        doubted="other traffic goes over the same connection and is fine",
        excluded="openssl against all three processor endpoints: chain valid, no handshake errors since 00:00",
        believed="one of three endpoints presents a chain that we do not trust, and its requests time out as declines",
        proof="endpoint 2 answers with an intermediate that is not in our bundle: 100 % of its handshakes fail",
        fix="the missing intermediate is in the bundle now, endpoint 2 handshakes are clean",
    ),
    Suspect(
        name="spending limits",
        raised="does the nightly limit reset look right? a limit of zero would decline everything",
        doubted="I looked at one account and its limit is 5,000",
        excluded="dumped the limits of 50 declined accounts: none is zero, none was touched by the reset job",
        believed="the reset job ran in local time and left the limits of that country at zero until its next run",
        proof="2,114 accounts have a limit of 0.00 since the job of 00:00, and all declined cards belong to them",
        fix="the reset job was run again by hand with UTC, no account has a limit of zero any more",
    ),
    Suspect(
        name="gateway flag",
        raised="the flag gateway-next went from 5 to 50 percent yesterday, did anybody check business cards with it?",
        doubted="the flag is by account hash, so it would not pick one country",
        excluded="turned gateway-next off for ten minutes: the decline rate did not move at all",
        believed="gateway-next sends an empty merchant country for some acquirers, which the issuer side declines",
        proof="every declined request went through gateway-next with an empty merchant country, none else did",
        fix="gateway-next is back at 0 percent, all authorisations use the old gateway",
    ),
)

CHATTER = (
    "authorisations per minute: {n}, approved {p} %",
    "support has {m} open conversations, oldest is {k} minutes old",
    "p99 of the ledger is {n} ms, nothing unusual",
    "queue depth of notifications {m}, draining",
    "unrelated: the build of the ios app is red again, looking after this",
    "can somebody take over the status page? I am in and out of calls",
    "status page says: we are investigating problems with some card payments",
    "dashboards are slow, please do not all open the {m}-day view",
    "partner bank asks whether they should do anything. Told them no for now",
    "I have a trace of one declined request, it took {n} ms end to end, will attach it",
    "the trace shows nothing strange before the issuer reply, just a plain decline",
    "replica {k} of the accounts database lags {m} s, that is within the usual",
    "a merchant called: their terminal shows 05 do not honour for some of our cards",
    "cash withdrawals look normal, {p} % approved",
    "top-ups look normal, {p} % approved",
    "refunds are delayed by {k} minutes, known since yesterday, ticket is open",
    "somebody on social media says it is all our cards. It is not: {p} % of payments pass",
    "lunch is here, take turns please",
    "I restarted collector {k}, it had stopped sending metrics, no effect on payments",
    "log search for the last {m} minutes finished: {n} lines with decline, most are insufficient funds as always",
    "insufficient funds is {p} % of declines in a normal hour, so please look at code 05 only",
    "handover note is in the document, section {k}",
    "the on-call of the data team is awake now and reads along",
    "sampled {m} declines by hand, the merchants are all kinds: groceries, fuel, online",
    "chip, contactless and online are all affected, so it is not the terminals",
    "nothing in the changelog of the network for today, I called them",
    "can we get numbers every ten minutes, not every minute? this channel is hard to read",
    "marketing wanted to send a mail to all customers at noon, I asked them to wait",
    "retry traffic makes the graph look worse than it is, maybe by {m} %",
    "the alert for approvals by country has a threshold of {p} %, that is why it stayed silent at first",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """The course of the incident; times are minutes of the day."""

    country: str
    cause: Suspect
    withdrawn: Suspect
    excluded: Sequence[Suspect]
    began: int
    fixed: int


def draw_incident() -> Incident:
    """The incident of the seed."""
    dice = Dice(SEED)
    cause, withdrawn, *excluded = dice.shuffled(SUSPECTS)
    began = 8 * 60 + dice.below(90)
    return Incident(
        country=dice.one_of(COUNTRIES),
        cause=cause,
        withdrawn=withdrawn,
        excluded=excluded,
        began=began,
        fixed=began + 260 + dice.below(60),
    )


def draw_texts(rows: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """The texts of the messages with their intents, without long ones and repeated ones."""
    texts = {" ".join(row["text"].split()): row["category"] for row in rows}
    some = Dice(SEED + 1).shuffled([(text, intent) for text, intent in texts.items() if len(text) <= 200])
    declined = [entry for entry in some if entry[1] == DECLINED][:DECLINED_TEXTS]
    return declined + [entry for entry in some if entry[1] != DECLINED][:OTHER_TEXTS]


def customers() -> list[tuple[str, str, str, str]]:
    """Id, plan, country and date of joining of each customer."""
    dice = Dice(SEED + 2)
    return [
        (
            f"C{1000 + 7 * number}",
            dice.one_of(PLANS),
            dice.one_of(COUNTRIES),
            f"20{15 + dice.below(11)}-{1 + dice.below(12):02}-{1 + dice.below(28):02}",
        )
        for number in range(260)
    ]


def messages(story: Incident, texts: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Time, customer and text of each message, in the order of time."""
    dice = Dice(SEED + 3)
    everybody = customers()
    business = [row for row in everybody if row[1] == "business"]
    hit = [row for row in business if row[2] == story.country]
    sent = []
    for number, (text, intent) in enumerate(texts):
        is_hit = intent == DECLINED and number % 5 < 3
        day = INCIDENT_DAY if is_hit else dice.one_of(DAYS)
        who = dice.one_of(hit if is_hit else business if day == INCIDENT_DAY and dice.below(3) == 0 else everybody)
        minute = story.began + dice.below(story.fixed - story.began) if is_hit else dice.below(24 * 60)
        sent.append((f"2026-10-{day:02}T{_clock(minute)}:{dice.below(60):02}Z", who[0], text))
    return sorted(sent)


def channel(story: Incident) -> Iterator[str]:
    """The lines of the incident channel, in the order of time."""
    dice = Dice(SEED + 4)
    said = dict(_turning_points(story, dice))
    for minute in range(story.began + 12, story.fixed + 40):
        for _ in range(1 + dice.below(2)):
            yield f"{_clock(minute)} {dice.one_of(PEOPLE)} - {_chatter(dice)}"
        yield from (f"{_clock(minute)} {line}" for line in said.get(minute, ()))


def _turning_points(story: Incident, dice: Dice) -> Iterator[tuple[int, list[str]]]:
    """The lines that matter, by minute: suspects are raised, excluded, believed, withdrawn; one is proved."""
    start, length = story.began + 13, story.fixed - story.began - 20
    yield (
        start,
        [f"{dice.one_of(PEOPLE)} - paged: declines with code 05 are up since about {_clock(story.began)}"],
    )
    order = dice.shuffled((*story.excluded, story.cause, story.withdrawn))
    for number, suspect in enumerate(order):
        yield (
            start + 6 + number * 7,
            [f"{dice.one_of(PEOPLE)} - {suspect.raised}", f"{dice.one_of(PEOPLE)} - {suspect.doubted}"],
        )
    believed, first, second = story.withdrawn, *dice.shuffled(PEOPLE)[:2]
    yield (
        start + length * 3 // 10,
        [
            f"{first} - I think we have the root cause: {believed.name}. {believed.believed}",
            f"{second} - that fits, confirmed from my side, preparing to revert",
        ],
    )
    yield (
        start + length * 5 // 10,
        [
            f"{second} - I take my confirmation of {_clock(start + length * 3 // 10)} back. Reverted, nothing changed",
            f"{first} - agreed, it was not it. {believed.excluded}",
        ],
    )
    for number, suspect in enumerate(story.excluded):
        yield start + length * (35 + 12 * number) // 100, [f"{dice.one_of(PEOPLE)} - {suspect.excluded}"]
    yield (
        start + length * 82 // 100,
        [
            f"{first} - back to something that we dropped too early. {story.cause.believed}",
            f"{first} - {story.cause.proof}",
            f"{second} - reproduced independently, same result. This is it",
        ],
    )
    yield (
        story.fixed,
        [
            f"{second} - {story.cause.fix}",
            f"{first} - code 05 declines are back to normal since {_clock(story.fixed)}, watching for 30 more minutes",
        ],
    )


def _chatter(dice: Dice) -> str:
    numbers = {"n": 100 + dice.below(900), "m": 11 + dice.below(80), "k": 1 + dice.below(9), "p": 90 + dice.below(9)}
    return dice.one_of(CHATTER).format_map(numbers)


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def files() -> dict[str, str]:
    """The text of each file that is generated, by name."""
    story = draw_incident()
    with (HERE / "banking77.csv").open(encoding="utf-8", newline="") as rows:
        texts = [(row["text"], row["category"]) for row in csv.DictReader(rows)]
    said = [
        json.dumps({"id": f"M{number:04}", "at": at, "customer": who, "text": text}, ensure_ascii=False)
        for number, (at, who, text) in enumerate(messages(story, texts), 1)
    ]
    return {
        "customers.csv": _csv([("customer", "plan", "country", "joined"), *customers()]),
        "messages.jsonl": "\n".join(said) + "\n",
        "incident.txt": "\n".join(channel(story)) + "\n",
    }


def _csv(rows: Sequence[Sequence[str]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def main() -> int:
    """Writes the files beside this one."""
    if sys.argv[1:]:
        with Path(sys.argv[1]).open(encoding="utf-8", newline="") as rows:
            texts = draw_texts(list(csv.DictReader(rows)))
        (HERE / "banking77.csv").write_text(_csv([("text", "category"), *texts]), encoding="utf-8", newline="\n")
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
