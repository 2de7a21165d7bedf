"""What a person at a terminal sees and types: a run as it goes, and a prompt on a context.

excerpt.py       the beginning of a text, or its two ends, and what was left out; pure
scene.py         events of a run -> what has happened and what is going on; pure
screen.py        that -> what rich draws, at any width; pure
ending.py        what is shown of a run that is over; pure
drawing.py       draws it on a terminal, or prints it anywhere
following.py     does so while the run goes on
taking.py        tells how far a source is taken in
interrupts.py    Ctrl-C, and Ctrl-C again
line_editor.py   when what was typed is a whole block; history and completion
prompt.py        the REPL of `inspect`
prompt_calls.py  what code in it may ask of a model
"""
