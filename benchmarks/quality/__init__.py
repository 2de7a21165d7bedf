"""Generated tasks with exact scores, and how this engine and its rivals do on them: `python -m benchmarks.quality`.

`families` generates contexts and questions; `messages`, `records` and `folders` have their text. `reader` plays a
sub-model, `root` a root model; `serving` puts both behind an endpoint, `metering` counts what a real endpoint is asked.
`contenders` answers, `figures` sums up.
"""
