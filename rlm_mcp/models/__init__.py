"""Language models as the loop sees them: one protocol, and the things that keep it."""
