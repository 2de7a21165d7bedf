"""Records of runs: events, answers and checkpoints on disk, and what resume and replay take from them."""
