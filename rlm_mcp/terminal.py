"""Text that came from a context, a model or a sandbox, made harmless where a terminal shows it."""


def harmless(text: str) -> str:
    """The text without what a terminal would obey: control characters and bidirectional marks appear as escapes."""
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)
