"""The command line: `rlm-mcp` serves stdio; every other command does one thing, prints it and ends.

Answers and results go to stdout, everything else to stderr. Exit status: 0 answered, 1 failed, 2 wrong usage,
3 stopped by a limit with a partial answer.
"""

import argparse
import errno
import sys
from collections.abc import Sequence

from rlm_mcp.cli.commands import clients, contexts, demo, inspecting, machine, runs, serving, solving
from rlm_mcp.cli.commands.output import complain
from rlm_mcp.cli.commands.registry import ANSWERED, FAILED, Commands, common_flags
from rlm_mcp.cli.commands.streams import open_closed_streams, show_every_character, stop_writing
from rlm_mcp.errors import RlmError
from rlm_mcp.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    open_closed_streams()
    show_every_character()
    options = _parser().parse_args(argv)
    try:
        status: int = options.run(options)
        print(end="", flush=True)
    except BrokenPipeError:  # what `| head` does: the reader has enough
        stop_writing()
        return ANSWERED
    except RlmError as error:
        return complain(error)
    except KeyboardInterrupt:
        print("rlm-mcp: interrupted", file=sys.stderr)
        return FAILED
    except OSError as error:
        status = complain(RlmError(_reason(error)))
        stop_writing()
    return status


def _reason(error: OSError) -> str:
    """What a file of the user's, or the stream that output goes to, does not let a command do."""
    if error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    told = "the output cannot be written" if error.errno in {errno.ENOSPC, errno.EIO, errno.EFBIG} else "it failed"
    return f"{told} ({error.strerror or error}); what a run has answered is on record: `rlm-mcp runs list`"


def _parser() -> argparse.ArgumentParser:
    common = common_flags()
    parser = argparse.ArgumentParser(prog="rlm-mcp", description=__doc__, parents=[common])
    parser.set_defaults(run=serving.serve, http=None, json=False, quiet=False)
    parser.add_argument("--version", action="version", version=__version__)
    commands = Commands(parser, common)
    for group in (serving, solving, inspecting, contexts, runs, machine, clients, demo):
        group.add(commands)
    return parser
