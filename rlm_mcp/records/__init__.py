"""What runs leave on disk: events, answers, checkpoints, and what resume and replay read of them."""
