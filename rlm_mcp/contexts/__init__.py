"""Contexts: long inputs kept on disk under an id, with an address for every character.

Nothing is imported here: `contexts.store` is the way in, `describe` and `search` take a store.
"""
