"""Facts in the words of a refusal: whether something is too long, and which of its numbers are limits. No I/O.

Every provider words the same refusal in its own way, so nothing here knows a whole sentence. A refusal says "too long"
where a subject (prompt, context, tokens) stands near an excess (exceeds, longer than). A number is a limit if the
nearest label before it names one (maximum, at most, <=), or a label follows it (200000 maximum). Numbers that count
nothing are masked first: error codes, ids, dates, prices, names of models.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

# How much of a refusal is read; its reason comes first, and some quote the whole request after it.
_READ_CHARS = 4_000

# The length of the longest reply, by the names of its parameter and in words.
_LENGTH_NAME = re.compile(
    r"max[_ ]?(?:completion|output|new|gen(?:erated)?)?[_ ]?tokens?(?:[_ ]to[_ ]sample)?\b"
    r"|\bmaxoutputtokens|\bmax_length\b|\bnum_predict\b|\bn_predict\b"
    r"|\bmaximum tokens (?:you|value)|\bmaximum (?:number of )?(?:completion|output|new|response|reply) tokens"
    r"|\b(?:completion|output|response|reply)[ _](?:tokens?|length)|\bmax(?:imum)? output",
    re.IGNORECASE,
)
# A limit of the reply alone, although the sentence may go on about the context. A sum with the prompt is none.
_BOUNDS_REPLY = re.compile(
    rf"(?<!\+)(?<!plus)(?<!and)(?:^|\s)[`'\"]?(?:{_LENGTH_NAME.pattern})[`'\"]*\s"
    r"(?:value\s)?(?:must|should|cannot|has to|is out of)",
    re.IGNORECASE,
)
# Numbers that count nothing.
_NOT_COUNTS = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{13,40}"  # UUID
    r"|\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?Z?)?|\b\d?\d:\d\d(?::\d\d)?\b"  # dates and times
    r"|[$€£¥]\s?\d[\d.,]*|\b\d+\.\d+\b|\b\d+%"  # prices, versions, shares
    r"|\b(?:request|account|project|user|trace|tenant|org(?:ani[sz]ation)?|customer|log|session|t|call)"
    r"[ _-]?(?:ids?|numbers?|no\.)\W{0,4}[\w-]+"
    r"|\b(?:account|project|organi[sz]ation|tenant|subscription|customer|deployment|ticket)\s+[`'\"(#]?[\w-]*\d[\w-]*"
    r"|\b(?:error|status|http|errno|code)(?:[ _-]?(?:code|status|no))?\W{0,4}\d{3,6}\b(?!\s?tokens?)"
    r"|<\d{3}>"
    r"|\b[a-z_][\w./-]{0,60}?\d[\w./-]{0,60}",  # names such as gpt-4-32k and llama-3.1-8b
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"(?<![\w.#-])(?P<digits>\d{1,3}(?:[,_]\d{3})+|\d{1,12})(?P<thousands>\s?[km]\b)?"
    r"(?P<unit>[\s)\]`'\"-]*(?:tokens?\b|token\b|bytes?\b|[kmg]i?b\b|char(?:acter)?s?\b|images?\b|seconds?\b|messages?\b"
    r"|requests?\b|words?\b|items?\b|pages?\b|字))?",
    re.IGNORECASE,
)

# Labels are tried at each place in this order; what a number counts comes before what limits it.
_LABEL = re.compile(
    r"(?P<count>\b(?:max_?(?:new_|completion_|output_)?tokens|maximum output tokens?|completion)\b"
    r"|\b(?:your|current|actual|given|got|received|provided|requested|requests?|sent|used|uses|contains?|has|have|had"
    r"|result(?:ed|s)? in|totals?|estimated|instead of|whereas|needs?|needed|minimum|at least|by|batch size"
    r"|keep the first"
    r"|is too (?:long|large|big)|too (?:long|large):)\b:?"
    r"|\b(?:input|prompt|messages?|query|text)(?:[ _](?:token|length|size|tokens|count|context))*\b"
    r"|\btoken count\b)"
    r"|(?P<limit>\bmax(?:imum|imal)?\s+(?:number of\s+)?(?:input|prompt|context|total|message)\s+tokens?\b"
    r"|\b(?:max(?:imum|imal)?|allow(?:ed|able)|available|context|model|configured|window|token|size|total"
    r"|maximum input)\s+(?:[\w']+\s+){0,4}?(?:length|size|limit|window|capacity|count)\b"
    r"|\bonly (?:has|have|had)\b|\b(?:context|window) of\b|\baccepts?\b"
    r"|\b(?:max(?:imum|imal|length)?|max_\w+|limit(?:ed)?(?: is| of| to)?|window|n_ctx|n_ctx_slot|num_ctx|ctx|capacity"
    r"|allow(?:s|ed)|supports?|at most|up to|no more than|not exceed|must be|must have|should be|should have|between"
    r"|less than|fewer than|smaller than|lower than|below|under|within|exceed(?:s|ed|ing)?|over|than|range|until"
    r"|too (?:large|long|big|many) for|expected|equal to|context[_ ]length|context[_ ]size|max_model_len|session_len)\b"
    r"|<=?|≤|>=?|≥|上限|限制|最大|最长|超过|超出|不能超过|\[)",
    re.IGNORECASE,
)
_LABEL_AFTER = re.compile(
    r"^(?:[-\s]+tokens?)?[\s`'\"-]*(?:or (?:less|fewer)|(?:token )?(?:maximum|max\b|limit|context|window)"
    r"|available\b|(?:is|are) (?:the )?(?:maximum|limit|allowed|permitted|most))",
    re.IGNORECASE,
)
_COMPARISON = re.compile(r"(\d{2,9})\)?(?:\s*tokens?)?\s*(?:>=?|≥|/)\s*\(?(\d{2,9})(?![\d./])")
# Between a limit and its number stands at most a word such as "of" or "is".
_LINK = re.compile(
    r"(?:\b(?:is|of|to|are|only|be|than|exceeds?|over|a|the|most|within|allowed)|[<>=≤≥])\W*$", re.IGNORECASE
)

# Both ends of a range have its label: [1, 8192], 1 to 8192.
_RANGE = re.compile(r"(?:^\[\s*\d+\s*,|\d\s*(?:and|to|-|\.\.))\s*$")

_SUBJECT = (
    r"context|ctx|prompts?|inputs?|tokens?|n_ctx|messages?|sequence|conversation|content|text|request(?:\s+body)?|payload"
    r"|chat|history|document"
)
_EXCESS = (
    r"exceed\w*|too (?:long|large|big|many)|(?:longer|larger|greater|bigger|more) than|overflow\w*|over (?:the|a|its)\b"
    r"|beyond|not fit|(?:reduce|shorten|truncate|decrease|trim|lower) (?:the|your|its)\b|shorter input|not enough"
    r"|is full"
)
_BOUND = r"max\w*|limit\w*|at most|up to|less than|fewer than|<=|≤|must be|should be|supports?|cannot|only"
# Codes, and phrases that need no excess beside them.
_CODES = re.compile(
    r"maximum context length|context_length_exceeded|exceed_context|context_window|context_overflow"
    r"|tokens?[_ ]limit|conversation limit|maxlength|tokens?_too_long"
    r"|(?:prompt|input)_(?:is_)?too_long|max_prompt_tokens|string_above_max_length|request_too_large|request_too_long"
    r"|context[ _-](?:length|window|size)[ _-](?:exceeded|overflow)|model_context",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    rf"\b(?:{_SUBJECT})\b[^.;!?\n]{{0,90}}?\b(?:{_EXCESS})|\b(?:{_EXCESS})[^.;!?\n]{{0,70}}?\b(?:{_SUBJECT})\b"
    r"|(?:上下文|输入|提示|内容|消息|文本|请求|token|tokens|prompt|长度)[^。\n]{0,20}(?:超|过长|太长|过大|上限)"
    r"|超(?:过|出|长)[^。\n]{0,20}(?:上下文|长度|上限|限制|token)",
    re.IGNORECASE,
)
_BOUNDED = re.compile(
    rf"\b(?:context|tokens?|prompts?|inputs?|n_ctx|window)\b[^.;!?\n]{{0,60}}?(?:\b(?:{_BOUND})|[<≤])"
    rf"|\b(?:{_BOUND})\b[^.;!?\n]{{0,60}}?\b(?:context|tokens?|prompts?|inputs?|n_ctx|window)\b",
    re.IGNORECASE,
)
_COUNTED = re.compile(r"\b(?:context|ctx|tokens?|prompts?|inputs?|n_ctx|sequence)\b", re.IGNORECASE)
# Words that hold a subject and an excess but are about something else.
_OTHER_MATTERS = re.compile(
    r"input should be|(?:invalid|extra|malformed|reformat your) inputs?|(?:with|a) higher max"
    r"|tokens? per (?:min|minute|day|hour|second)|\btp[mdhs]\b|too many (?:states|requests)|\brate.?limit",
    re.IGNORECASE,
)
_PER_TIME = re.compile(
    r"(?:tokens?|requests?) per (?:min|minute|day|hour|second)|this (?:minute|hour|day)|\b[tr]p[mdhs]\b|\brate.?limit",
    re.IGNORECASE,
)
# Sizes that are not counted in tokens: characters, entries of an array.
_SIZES = re.compile(r"(?:string|array) (?:too long|with)|characters?\b|maxlength|\bchars\b|\$\.\w", re.IGNORECASE)
_TOKEN_WORDS = re.compile(r"token|jeton|токен|トークン|토큰|令牌|词元", re.IGNORECASE)
_PROMPT = re.compile(r"context|\bprompt|\binputs?\b|\bmessages?\b|n_ctx", re.IGNORECASE)
_PROMPT_COUNT = re.compile(
    r"(?:input|prompt|messages?)\W+(?:[a-z_]+\W+){0,3}?(\d{2,9})|"
    r"(\d{2,9})\W*(?:tokens?\W+)?(?:(?:in|of|from|for)\W+)?(?:the\W+|your\W+)?(?:text\W+)?(?:input|prompt|messages?)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number in a refusal. `label` is what the words around it call it."""

    value: int
    label: str
    is_bare: bool
    """no word links it to its label, as in "limit (2013)", and it has no unit: it may be a code"""


def per_time(text: str) -> bool:
    """Tells whether a refusal is about a rate, such as tokens per minute."""
    return _PER_TIME.search(text[:_READ_CHARS]) is not None


def bounds_reply(text: str) -> bool:
    """Tells whether a refusal bounds the reply alone, not the prompt and the reply together."""
    return names_length(text) and (_BOUNDS_REPLY.search(text[:_READ_CHARS]) is not None or not speaks_of_prompt(text))


def names_length(text: str) -> bool:
    """Tells whether a refusal speaks of the longest reply (max_tokens and its other names)."""
    return _LENGTH_NAME.search(text[:_READ_CHARS]) is not None


def says_too_long(text: str) -> bool:
    """Tells whether a refusal says that a prompt, or a prompt and its reply, are too long."""
    text = _OTHER_MATTERS.sub(" ", text[:_READ_CHARS])
    without_names = _LENGTH_NAME.sub(" ", text).replace("_", " ")
    if _CODES.search(text) or _TOO_LONG.search(without_names):
        return True
    numbers = numbers_in(text)
    limits = [number.value for number in numbers if number.label == "limit" and number.value >= 256]
    if limits and _BOUNDED.search(without_names):
        return True
    largest = max((number.value for number in numbers), default=0)
    is_over = bool(_compared(_masked(text))) or (bool(limits) and largest > min(limits))
    return is_over and _COUNTED.search(without_names) is not None


def speaks_of_prompt(text: str) -> bool:
    """Tells whether a refusal speaks of the prompt or the context beside the reply."""
    text = _OTHER_MATTERS.sub(" ", text[:_READ_CHARS])
    return _PROMPT.search(text) is not None


def limits_in(text: str, *, least: int, codes: Collection[int] = ()) -> list[int]:
    """Returns the limits of tokens that a refusal names, none of them below `least` or one of its `codes`.

    The right side of a comparison (210000 tokens > 200000) is the limit whatever else the refusal says.
    """
    text = text[:_READ_CHARS]
    masked = _masked(text)
    if compared := _compared(masked):
        return [value for value in compared if value >= least]
    if _SIZES.search(text) and "token" not in text.lower():
        return []
    named = [number for number in numbers_in(text) if number.label == "limit" and number.value >= least]
    return [number.value for number in named if not (number.value in codes or _may_be_code(number))]


def limit_below(text: str, prompt_tokens: int) -> int | None:
    """Returns a round number of tokens that a prompt of this size exceeds, in a refusal in any language."""
    if _TOKEN_WORDS.search(text[:_READ_CHARS]) is None:
        return None
    values = [number.value for number in numbers_in(text) if number.value >= 1_000 and not _may_be_code(number)]
    return min((value for value in values if value < prompt_tokens), default=None)


def _compared(masked: str) -> list[int]:
    """The right sides of comparisons such as 9000 > 8192 and 9000/8192."""
    pairs = [(int(left), int(right)) for left, right in _COMPARISON.findall(masked)]
    return [right for left, right in pairs if left >= right]


def prompt_tokens_in(text: str, asked: int | None) -> int | None:
    """Returns how many tokens the server counted in the prompt, given the `asked` length of the reply."""
    masked = _masked(text[:_READ_CHARS])
    values = {number.value for number in numbers_in(text)}
    if asked is not None and asked in values:
        for total in values:
            if total > asked and total - asked in values:
                return total - asked
    labelled = [int(first or second) for first, second in _PROMPT_COUNT.findall(masked)]
    counted = [value for value in labelled if value != asked]
    if counted:
        return counted[0]
    if asked is not None and (added := re.search(rf"(\d{{1,9}})\s*\+\s*{asked}\b", masked)):
        return int(added[1])
    return None


def total_tokens_in(text: str, limit: int) -> int | None:
    """Returns the tokens of prompt and reply that a refusal says were asked for: the largest number above `limit`."""
    return max((number.value for number in numbers_in(text) if number.value > limit), default=None)


def rate_limit_below_request(text: str) -> tuple[int, int] | None:
    """Returns the limit and the tokens of a request that no waiting brings under a rate limit; zeros if not told."""
    text = text[:_READ_CHARS]
    limit = re.search(r"limit\D{0,12}(\d[\d,]*)", text, re.IGNORECASE)
    requested = re.search(r"requested\D{0,12}(\d[\d,]*)", text, re.IGNORECASE)
    if limit is not None and requested is not None:
        most, asked = (int(found[1].replace(",", "")) for found in (limit, requested))
        return (most, asked) if asked > most and per_time(text) else None
    return (
        (0, 0)
        if re.search(r"request (?:is )?too large|must be reduced", text, re.IGNORECASE) and per_time(text)
        else None
    )


def numbers_in(text: str) -> list[Number]:
    """Returns the numbers that may count tokens, with their labels."""
    return list(_numbers(_masked(text[:_READ_CHARS])))


def _numbers(text: str) -> Iterator[Number]:
    for found in _NUMBER.finditer(text):
        unit = (found["unit"] or "").strip(" )]`'\"-\t\n").lower()
        if unit and not unit.startswith("token"):
            continue
        value = int(re.sub(r"[,_]", "", found["digits"]))
        scale = (found["thousands"] or "").strip().lower()
        value *= {"k": 1_000, "m": 1_000_000}.get(scale, 1)
        before = text[max(0, found.start() - 70) : found.start()]
        label = "limit" if _LABEL_AFTER.match(text[found.end() : found.end() + 30]) else _label(before)
        if unit and _LABEL_AFTER.match(text[found.end("digits") : found.end() + 30]):
            label = "limit"
        yield Number(value=value, label=label, is_bare=not unit and not scale and _LINK.search(before) is None)


def _label(before: str) -> str:
    """The last label before a number, unless another number has it already. Both ends of a range have it."""
    labels = list(_LABEL.finditer(re.split(r"[.;!?]\s", before)[-1]))
    if not labels:
        return ""
    last = labels[-1]
    between = last.string[last.end() :]
    is_taken = re.search(r"\d", between) is not None and not _RANGE.search(last[0] + between)
    return "" if is_taken else last.lastgroup or ""


def _may_be_code(number: Number) -> bool:
    """Tells whether a bare number is more likely the number of an error than a limit, which is a round one."""
    value = number.value
    round_one = value % 128 == 0 or value % 500 == 0 or any(value + step in _POWERS for step in (-1, 1))
    return number.is_bare and (not round_one or value < 512 or (value < 4_000 and value not in _POWERS))


_POWERS = frozenset(1 << bits for bits in range(9, 27))


def _masked(text: str) -> str:
    """Returns the text with a low line for each digit that counts nothing."""
    return _NOT_COUNTS.sub(lambda found: re.sub(r"\d", "_", found[0]), text)
