"""What each command of the command line does: one file a group, each with an `add(commands)` that registers it."""
