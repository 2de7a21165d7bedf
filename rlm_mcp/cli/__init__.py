"""The command line: commands, the live view of a run, `doctor` and the demo."""
