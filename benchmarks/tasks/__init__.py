"""Generated tasks with exact answers, for measuring weak models."""
