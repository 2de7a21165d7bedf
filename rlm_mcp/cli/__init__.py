"""What a person at a terminal sees: commands, the live view of a run, the doctor and the demo."""
