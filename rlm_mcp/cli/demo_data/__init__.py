"""What `rlm-mcp demo` replays: a log of an invented shop, and the recorded run of a model over it."""
