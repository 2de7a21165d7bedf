"""The data of `rlm-mcp demo`: the log of an invented shop, and the recorded run of a model over it."""
