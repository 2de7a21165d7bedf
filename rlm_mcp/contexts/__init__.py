"""Contexts: long inputs kept on disk under an id, with an address for every character.

`contexts.store.store` is the entry point; `contexts.describe` and `contexts.search` take a store.
"""
