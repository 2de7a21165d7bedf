"""The words of a question that its contexts may hold. No I/O."""

import re

MAX_QUERY_CHARS = 100_000
"""of a question, which stands in every prompt; what it is about belongs into a context"""

_MOST_WORDS = 8
_COMMON_WORDS = """
    a about after all also am an and any are as at be been before being between both but by can could date did do
    does each every find first for from get give given had has have her here him his how i if in into is it its last
    least line lines list log many me more most much my name no not number occur occurs of on one only or other our out
    over per please say says she should show so some tell text than that the their them then there these they this
    those to total under until up use used was we were what when where which while who whom whose why will with word
    words would year you your answer context file files form level levels contain contains different distinct following
    having ask asks"""
_COMMON = frozenset(_COMMON_WORDS.split())


def words_of(query: str) -> list[str]:
    """The words of a question to search for: names and codes first, no function words."""
    words = dict.fromkeys(re.findall(r"\w[\w.:/-]*\w|\w", query))
    telling = [word for word in words if len(word) > 2 and word.lower() not in _COMMON]
    telling.sort(key=lambda word: (word.islower(), -len(word)))
    return telling[:_MOST_WORDS]
