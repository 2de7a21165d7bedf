"""The engine: answers one query over contexts by the loop or directly, with citations, coverage and usage."""
