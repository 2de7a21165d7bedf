"""Sub-calls: asking a model about one text or about many, and having it judge each of many texts.

Runs inside the sandbox as a module of its own; `prelude` shows these functions to code in the REPL.
"""

import collections
import json
import re
import types

import conditions
import host
import texts
from host import loop

import __main__

MOST_SINGLE = 300
"""A small model is asked yes or no about up to so many texts one by one: it judges one far better than eight."""

OF_MANY = (
    ("How many of the e-mails are spam?", "Is this e-mail spam?"),
    ("Which author wrote the most jokes?", "Is this text a joke?"),
    ("Each line is a message that a pupil sent. How many of the pupils are tired?", "Is this pupil tired?"),
    ("Exactly one of these letters tells of a wedding. Who wrote it?", "Does this letter tell of a wedding?"),
    ("How many of the sentences name a colour?", "Does this sentence name a colour?"),
    ("Which team got the fewest cheers?", "Is this text a cheer?"),
    ("Which is the only note that speaks of a dog?", "Does this note speak of a dog?"),
)
"""Questions about many texts, and what to ask of each: examples for the model that rewrites a question."""

OF_ONE = re.compile(r"(?:is|are|was|were|does|do|did|has|have|can|could) (?:this|the|it)\b", re.IGNORECASE)
"""The beginning of a question that is about one text already."""

OF_THE_ONLY = re.compile(
    r"\bthe (?:only|single|one) ((?:(?!(?:that|which|who|whose|of)\b)[\w'-]+ ){1,3})((?:that|which|who|whose) .+?)"
    r"(?=\s*(?:[?!;\n]|\.(?:\s|$)|,? and (?:who|what|which|when|where|whose|how)\b|$))",
    re.IGNORECASE,
)
"""The only text of a kind, and what it is that makes it so: each text is asked whether it is one of these."""

TALLIED, TALLY_CHARS = 5, 40

READ_CHARS = 4_000
"""Characters of a text in one sub-call of read: small models overlook a sentence in more."""

MOST_PIECES = 50
SUBMITTED_AT_ONCE, SUBMITTED_CHARS = 100, 1 << 20

notes = []
"""Sentences for the model about the sub-calls of this cell; `prelude` empties it."""


class Fields(dict):
    """A dict whose keys are also attributes."""

    __slots__ = ()

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class FailedCall(str):
    """A sub-call without an answer: it is false, and its text is the reason."""

    __slots__ = ()

    @property
    def error(self):
        return str.__str__(self)

    def __bool__(self):
        return False


class Rehearsed:
    """Sub-calls of a copy that rehearses a cell: the host is told whether a guess may decide that one is made."""

    def __init__(self):
        self._frames = ()

    def ask(self, name, arguments):
        answer = host.exchange({"do": "call", "name": name, "args": [], "kwargs": arguments, **self._about()})
        self._note_guess()
        return host.value(answer)

    def submit(self, name, calls):
        answer = host.exchange({"do": "submit", "name": name, "calls": calls, **self._about()})
        self._note_guess()
        return host.value(answer)

    def _about(self):
        self._frames = conditions.stack()
        return {"place": conditions.place(self._frames), "conditional": conditions.is_conditional(self._frames)}

    def _note_guess(self):
        if host.value(host.exchange({"do": "guessed"})):
            conditions.mark_guess(self._frames)


_rehearsed = None


def rehearse():
    """Makes this a copy that rehearses a cell. Called by the host."""
    global _rehearsed
    _rehearsed = Rehearsed()


def ask(name, **arguments):
    """The answer to one call of a host function that asks a model."""
    return host.call(name, **arguments) if _rehearsed is None else _rehearsed.ask(name, arguments)


def _submit(name, calls):
    """Tickets for many such calls."""
    calls = [((), call) for call in calls]
    return host.submit_all(name, calls) if _rehearsed is None else _rehearsed.submit(name, calls)


def _own_function(name):
    def call(*args, **kwargs):
        return ask("call_function", function=name, args=list(args), kwargs=kwargs)

    call.__name__ = call.__qualname__ = name
    return call


def own_functions(names):
    """The caller's functions by name; one with a path is an attribute of the objects that the path names."""
    found = {}
    for name in names:
        *path, last = name.split(".")
        at = found
        for part in path:
            at = vars(at.setdefault(part, types.SimpleNamespace()))
        at[last] = _own_function(name)
    return found


def as_text(prompt):
    """The text of a prompt: of a text, several of them, or chat messages."""
    if isinstance(prompt, str):
        return str.__str__(prompt)
    if isinstance(prompt, dict) and "content" in prompt:
        return as_text(prompt["content"])
    if isinstance(prompt, list | tuple):
        return "\n\n".join(map(as_text, prompt))
    return str(prompt)


def _query_arguments(prompt, more, model, schema, material):
    for extra in more:
        if not isinstance(extra, str) or len(extra) > 80 or "\n" in extra or " " in extra.strip():
            material = as_text(extra) if material is None else f"{material}\n\n{as_text(extra)}"
        else:
            model = extra
    return {
        "prompt": as_text(prompt),
        "model": model,
        "schema": schema if schema is None or isinstance(schema, str | dict) else _schema(schema),
        "material": None if material is None else as_text(material),
    }


def _schema(schema):
    """`schema=int`, `schema=["yes", "no"]` in a form that the host knows."""
    if isinstance(schema, type):
        return schema.__name__
    if isinstance(schema, list | tuple | set):
        return {"enum": [str(one) for one in schema]}
    return str(schema)


def llm_query(prompt, *more, model=None, schema=None, material=None):
    """Asks a sub-model that sees only this prompt; returns text, or a value of `schema`."""
    return ask("llm_query", **_query_arguments(prompt, more, model, schema, material))


def llm_query_batched(prompts, *more, model=None, schema=None, material=None):
    """Asks many prompts in parallel; returns the answers in order. A failed one is a FailedCall, which is false."""
    if isinstance(prompts, str):
        prompts = [prompts]
    calls = [_query_arguments(prompt, more, model, schema, material) for prompt in prompts]
    return ask_all("llm_query", calls)


async def llm_query_async(prompt, *more, model=None, schema=None, material=None):
    """The async form of llm_query: `await` it, or gather many."""
    [ticket] = _submit("llm_query", [_query_arguments(prompt, more, model, schema, material)])
    return host.value(await loop.ticket_future(ticket))


def ask_all(name, calls):
    """The answers to many calls of a host function, in order; a failed one is a FailedCall."""
    if not calls:
        return []
    tickets = []
    for some in _portions(calls):  # the first run while the others are serialized
        tickets += _submit(name, some)
    try:
        results = host.wait(tickets)
    except KeyboardInterrupt:
        _keep_finished(tickets)
        raise
    return [FailedCall(str(result)) if isinstance(result, host.Failed) else result for result in results]


def _keep_finished(tickets):
    """Binds the answers that a batch has got when the block is stopped to `finished_answers`."""
    message = {"do": "wait", "tickets": tickets, "all": False, "seconds": 0}
    try:
        answers = host.exchange(message)
    except KeyboardInterrupt:  # of the same stop, which code may be told of twice
        answers = host.exchange(message)
    answers = dict(answers.get("ok", ()))  # refused if they do not fit into the memory: the stop is what counts
    if any("ok" in answer for answer in answers.values()):
        missing = FailedCall("the block was stopped before this answer came")
        kept = [answers.get(ticket, {}).get("ok", missing) for ticket in tickets]
        vars(__main__)["finished_answers"] = kept
        done = sum("ok" in answer for answer in answers.values())
        notes.append(
            f"The block was stopped when {done} of {len(tickets)} answers of the batch had come: `finished_answers` has"
            " them in order, false where there is none. The same calls again cost nothing where they were answered."
        )


def _portions(calls):
    """The calls in lists that are submitted at once: a message to the host has a bound."""
    some, chars = [], 0
    for call in calls:
        size = _chars_in(call)
        if some and (len(some) == SUBMITTED_AT_ONCE or chars + size > SUBMITTED_CHARS):
            yield some
            some, chars = [], 0
        some.append(call)
        chars += size
    yield some


def _chars_in(value):
    """The characters of all texts in a JSON value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_chars_in, value)) + sum(map(_chars_in, value.values()))
    return sum(map(_chars_in, value)) if isinstance(value, list) else 0


class Labels(list):
    """The labels of items, in order. `.uncertain` holds the indices that are worth a look, `.failed` those without a
    label, whose place holds a FailedCall."""

    def __init__(self, labels, uncertain, failed):
        super().__init__(labels)
        self.uncertain = uncertain
        self.failed = failed


def classify(items, question, labels, *, examples=(), model=None, batch=None, votes=1):
    """One of `labels` for each of `items`, in order, judged by a sub-model. `examples` are (item, label) pairs.

    With `votes`, doubtful items are judged so many times, and the majority stands.
    """
    items = as_items(items, "classify")
    labels = list(dict.fromkeys(str(label) for label in ([labels] if isinstance(labels, str) else labels)))
    if len(labels) < 2:
        raise ValueError(f"classify needs two labels or more to choose from, and got {labels}")
    question = as_text(question)
    options = {"examples": [(as_text(item), str(label)) for item, label in examples], "batch": batch, "votes": votes}
    if OF_ONE.match(question) and {label.casefold() for label in labels} == {"yes", "no"}:
        options["one_by_one"] = len(items) <= MOST_SINGLE and batch is None and not examples
    judged = _classified(items, question, labels, model=model, **options)
    about = [f"{len(judged.uncertain)} of them uncertain (.uncertain has their indices)"] if judged.uncertain else []
    about += [f"{len(judged.failed)} without a label (.failed)"] if judged.failed else []
    about += [_tally(judged)] if len(judged) > len(judged.failed) else []
    notes.append("; ".join([f"classify judged {len(items) - len(judged.failed):,} items", *about]) + ".")
    return judged


def _tally(judged):
    """How many items have each label, so that one that all items got is seen at once."""
    counts = collections.Counter(label for label in judged if not isinstance(label, FailedCall)).most_common()
    if len(counts) == 1:
        return f"all of them {counts[0][0][:TALLY_CHARS]!r}"
    more = f", {len(counts) - TALLIED} more labels" if len(counts) > TALLIED else ""
    return ", ".join(f"{label[:TALLY_CHARS]!r} {count:,}" for label, count in counts[:TALLIED]) + more


def _classified(items, question, labels, **options):
    if not items:
        return Labels([], [], [])
    judged = ask("classify", items=items, question=question, labels=labels, options=options)
    given = judged["labels"]
    for index, reason in judged["failed"]:
        given[index] = FailedCall(f"no label for item {index}: {reason}")
    return Labels(given, judged["uncertain"], [index for index, _ in judged["failed"]])


def as_items(items, name):
    """The texts of a list; the lines of a text, because judging its single characters is never meant."""
    if isinstance(items, str | texts.BigText):
        lines = [line for line in items.splitlines() if line.strip()]
        notes.append(f"{name} was given one text and judged its {len(lines):,} lines that are not blank.")
        return [str(line) for line in lines]
    if isinstance(items, dict):
        raise TypeError(f"{name} takes a list of texts, and got a mapping: pass its keys or its values")
    return [as_text(item) for item in items]


def pick(items, question, *, model=None):
    """Those of `items` that count for a question about all of them, such as "How many are complaints?"."""
    items = as_items(items, "pick")
    if not items:
        return []
    asked = _asked_of_each(as_text(question), model)
    labels = _classified(items, asked, ["yes", "no"], model=model, one_by_one=len(items) <= MOST_SINGLE)
    picked = [item for item, label in zip(items, labels, strict=True) if label == "yes"]
    about = f"; {len(labels.failed)} could not be judged" if labels.failed else ""
    about += f"; {len(labels.uncertain)} of them uncertain" if labels.uncertain else ""
    notes.append(f"pick asked of each text {asked!r}: yes for {len(picked)} of {len(items)}{about}.")
    return picked


def _asked_of_each(question, model):
    """The yes-or-no question about one text that decides a question about many.

    A small model that is asked whether a text counts for the question says yes to nearly every one.
    """
    if OF_ONE.match(question):
        return question
    if (only := OF_THE_ONLY.search(question)) is not None:
        return _whether_it_is_the_only(*only.groups())
    shown = "".join(f"Many: {many}\n{json.dumps({'one': one})}\n\n" for many, one in OF_MANY)
    prompt = f"Rewrite the question about many texts as a question about one of them.\n\n{shown}Many: {question}"
    schema = _object({"one": {"type": "string", "maxLength": 160}})
    reply = ask_all("llm_query", [{"prompt": prompt, "model": model, "schema": schema, "material": None}])[0]
    one = str(reply.get("one") or "") if isinstance(reply, dict) else ""
    # What has no word of the question was copied from the examples.
    return one if _stems(one) & _stems(question) else f"Does this text count for the question {question!r}?"


def _whether_it_is_the_only(kind, which):
    """Asks for what sets the text apart: "Which of them is the only one?" gets a yes from nearly every text."""
    kind = "text" if kind.strip().casefold() == "one" else kind.strip()
    article = "an" if kind[0].casefold() in "aeiou" else "a"
    return f"Is this {article} {kind} {which}?"


def _stems(text):
    """The beginnings of its longer words: complaint and complaining are the same word here."""
    return {word[:5] for word in re.findall(r"\w{4,}", text.casefold())} - {"this", "text", "texts", "that", "about"}


def _object(properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


class Found(Fields):
    """The answer of one piece of a text to a question: .answer, and .quote that contains it."""

    __slots__ = ()

    def __repr__(self):
        return f"{self['answer']} (it says: {self['quote']})"


def read(question, text, *, model=None):
    """Lets a sub-model read a text in pieces: what it finds, the best first, each with a quote that is in the text."""
    question = as_text(question)
    pieces = _pieces(text if isinstance(text, texts.BigText) else as_text(text))
    if len(pieces) > MOST_PIECES:
        notes.append(f"read looked at the first {MOST_PIECES} of {len(pieces)} pieces only.")
    prompt = (
        f"Question: {question}\nIf the text answers it, copy the sentence that does, word for word, and give the answer"
        " in a few words. If it does not, leave both empty."
    )
    schema = _object({"quote": {"type": "string", "maxLength": 300}, "answer": {"type": "string", "maxLength": 100}})
    calls = [{"prompt": prompt, "model": model, "schema": schema, "material": piece} for piece in pieces[:MOST_PIECES]]
    found = []
    for piece, reply in zip(pieces, ask_all("llm_query", calls), strict=False):
        if isinstance(reply, dict) and reply.get("answer") and _folded(reply.get("quote")) in _folded(piece):
            found += [Found(answer=reply["answer"], quote=reply["quote"])] if _folded(reply["quote"]) else []
    return _best_first(found, question, model)


def _pieces(text):
    """The text in pieces for a small context window, cut at line ends where there are any."""
    pieces = []
    for line in texts.split_lines(text) if isinstance(text, str) else text:
        for at in range(0, len(line) or 1, READ_CHARS):
            part = line[at : at + READ_CHARS]
            if pieces and len(pieces[-1]) + len(part) < READ_CHARS:
                pieces[-1] += "\n" + part
            else:
                pieces.append(part)
    return [piece for piece in pieces if piece.strip()]


def _best_first(found, question, model):
    """Moves the best quote to the front: small models find something in every piece, so quotes are compared."""
    if len(found) < 2:
        return found
    quotes = "\n".join(f"{number}. {one['quote']}" for number, one in enumerate(found, 1))
    numbers = [str(number) for number in range(1, len(found) + 1)]
    schema = _object({"number": {"enum": numbers}})
    prompt = f"Question: {question}\nWhich of these sentences answers it?\n{quotes}"
    reply = ask_all("llm_query", [{"prompt": prompt, "model": model, "schema": schema, "material": None}])[0]
    chosen = str(reply.get("number")) if isinstance(reply, dict) else ""
    best = found[int(chosen) - 1 : int(chosen)] if chosen in numbers else []
    return best + [one for one in found if one not in best]


def _folded(text):
    return " ".join(str(text or "").split()).casefold()
