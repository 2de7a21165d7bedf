"""Makes text safe to show: masks secrets, escapes control characters, and cuts what is too long."""

import re
import unicodedata

# API keys as error texts quote them, in full or in part ("sk-ab***yz").
_KEY_LIKE = re.compile(r"\b(?:sk|pk|rk|gsk|xai)-[\w*.\-]{6,}|\bBearer\s+\S+")


class Secret:
    """A text that repr, str, format and logs do not show. Compare with ==; read with `reveal()`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "Secret('***')" if self._text else "Secret('')"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reveal() == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a Secret cannot be pickled: pass it in memory")

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def scrub(self, text: str) -> str:
        """`text` with this secret, and anything that looks like an API key, replaced by "[key]"."""
        if len(self._text) >= 4:  # shorter values (none, x) are placeholders, whose letters occur in any text
            text = text.replace(self._text, "[key]")
        return without_keys(text)

    def mask_in_reply(self, text: str) -> str:
        """`text` with this secret replaced by "[key]"; a placeholder, which is a word of any reply, stays."""
        return text if _is_word(self._text) else text.replace(self._text, "[key]")


def _is_word(text: str) -> bool:
    """Tells whether a key is a word that local servers are given ("ollama", "not-needed"), rather than a secret."""
    return len(text) < 16 and not (len(text) >= 6 and re.search(r"\d", text) and re.search(r"[A-Za-z]", text))


def without_keys(text: str) -> str:
    """`text` with anything that looks like an API key replaced by "[key]"."""
    return _KEY_LIKE.sub("[key]", text)


def escape_controls(text: str) -> str:
    """The text with control characters and bidirectional marks, which a terminal would act on, shown as escapes.

    Blanks of any width and the joiners in emoji and in Persian words are shown as they are.
    """
    return "".join(c if _is_shown(c) else c.encode("unicode_escape").decode() for c in text)


def _is_shown(char: str) -> bool:
    return char in "\n\t\u200c\u200d" or char.isprintable() or unicodedata.category(char) == "Zs"


def ellipsize(text: str, chars: int) -> str:
    """The text, or its first characters and "…", `chars` in all."""
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


MASK = "***"
# Values of settings whose name suggests a secret, in JSON, TOML and YAML, in a diff of these, and in arguments.
# The group is atomic, and a name begins where a word begins, so that a long word is read once.
_NAME = r"(?>[\w.-]*?(?:key|token|secret|passw|auth|credential|cookie)[\w.-]*)"
_QUOTED = r"""("(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_IN_QUOTES = re.compile(rf"""((?<![\w.-]){_NAME}["']?\s*[:=]\s*){_QUOTED}""", re.IGNORECASE)
_ARGUMENT = re.compile(rf"(?<![\w.-])([\w.]*+-{_NAME}=)[^\s\"',\]]+", re.IGNORECASE)
_NEXT_ARGUMENT = re.compile(rf"""(["']-{_NAME}["']\s*,[\s+-]*){_QUOTED}""", re.IGNORECASE)
_PLAIN = re.compile(rf"^([-+ ]?[ \t]*{_NAME}:[ \t]+)([^\s\"'{{\[&*|>#].*)$", re.IGNORECASE | re.MULTILINE)


def mask_secrets(text: str) -> str:
    """The text of a configuration, or a diff of one, with the values of secrets masked."""
    for pattern in (_IN_QUOTES, _NEXT_ARGUMENT):
        text = pattern.sub(lambda found: found[1] + found[2][0] + MASK + found[2][0], text)
    for pattern in (_PLAIN, _ARGUMENT):
        text = pattern.sub(lambda found: found[1] + MASK, text)
    return without_keys(text)
