"""Programs that measure what the documentation claims."""
