"""The terminal's view of a run while it goes on, and the prompt of `inspect`.

excerpt.py          the beginning of a text, or its two ends, and how much was left out; pure
view_model.py       events of a run -> notes of what has happened, and what is going on; pure
renderer.py         that -> lines for rich, at any width; pure
outcome.py          how a run has ended -> lines for rich; pure
drawing.py          draws a run on a terminal, or prints it anywhere
live_view.py        does so while the run goes on
ingest_progress.py  shows how much of a source has been ingested
interrupts.py       Ctrl-C, and a second Ctrl-C
line_editor.py      reads blocks of code, with history and completion
prompt.py           the REPL of `inspect`
prompt_calls.py     the model calls that code at the prompt can make
"""
