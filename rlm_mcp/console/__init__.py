"""What a person at a terminal sees and types: a run as it goes, and a prompt on a context.

scene.py      events of a run -> what has happened and what is going on; pure
screen.py     that -> what rich draws, at any width; pure
following.py  draws it while the run goes on, or tells it in plain lines; Ctrl-C
excerpt.py    the beginning of a text, or its two ends, and what was left out; pure
typing.py     when what was typed is a whole block; the line editor's history and completion
prompt.py     the REPL of `inspect`
"""
