"""Sources of contexts, one file a kind; `opening.open_source` finds out which kind a path is."""
