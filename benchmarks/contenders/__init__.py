"""One driver for each sandbox that is compared: measures groups of figures and prints what it measured.

A driver is a program: `python -m benchmarks.contenders.NAME GROUP [quick]`. It prints lines of JSON, each
{"<figure>": [numbers]} in seconds or bytes, and nothing for groups it has no answer to.
"""
