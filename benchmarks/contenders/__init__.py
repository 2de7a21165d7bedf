"""One driver for each sandbox in the comparison; it measures groups of figures and prints them.

A driver is a program: `python -m benchmarks.contenders.NAME GROUP [quick]`. It prints lines of JSON, each
{"<figure>": [numbers]} in seconds or bytes, and nothing for groups that it does not support.
With the group `cells`, a driver runs cells from stdin instead (`measuring.serve_cells`), for `benchmarks.hostile`.
"""
