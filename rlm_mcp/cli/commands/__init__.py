"""The commands of the command line: one file for each group, with an `add_commands` that registers them."""
