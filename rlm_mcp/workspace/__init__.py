"""Everything that one user has: contexts, live runs and the REPLs of `inspect_context`."""
