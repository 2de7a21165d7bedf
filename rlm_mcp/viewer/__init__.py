"""The page of a run: one HTML file that shows everything its record holds and loads nothing.

timing.py     when each event began and ended
story.py      events -> the facts and rows of the page, long texts cut; pure
coverage.py   ranges read -> strips and a table of files; pure
passages.py   the cited lines and the sizes of files, read from the store
comparing.py  two stories -> how they differ; pure
page.py       a story -> the HTML, and the file it is written to
following.py  a run read bit by bit while it goes on
live.py       the same page, served on loopback
app.py        the same page as an MCP App, shown inside a chat
static/       the page's HTML, CSS and JavaScript, used as they are
"""
