"""The data of `rlm-mcp demo`: a support desk and a log, both invented, and recorded runs of models over them."""
