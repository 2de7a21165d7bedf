"""Sources of contexts, one file for each kind; `opening.open_source` finds out which kind a source is."""
