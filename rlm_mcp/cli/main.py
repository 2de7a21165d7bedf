"""The command line: `rlm-mcp` serves stdio; every other command does one thing, prints it and ends.

Answers and results go to stdout, everything else to stderr. Exit status: 0 answered, 1 failed, 2 wrong usage,
3 stopped by a limit with a partial answer.
"""

import argparse
import errno
import sys
from collections.abc import Sequence

from rlm_mcp.cli.commands import clients, contexts, demo, diagnostics, inspecting, runs, serving, solving
from rlm_mcp.cli.commands.output import print_error
from rlm_mcp.cli.commands.registry import ANSWERED, FAILED, Commands, common_flags
from rlm_mcp.cli.commands.streams import discard_output, escape_unencodable, open_closed_streams
from rlm_mcp.errors import RlmError
from rlm_mcp.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    open_closed_streams()
    escape_unencodable()
    options = _parser().parse_args(argv)
    try:
        status: int = options.run(options)
        print(end="", flush=True)
    except BrokenPipeError:  # what `| head` does: the reader has enough
        discard_output()
        return ANSWERED
    except RlmError as error:
        return print_error(error)
    except KeyboardInterrupt:
        print("rlm-mcp: interrupted", file=sys.stderr)
        return FAILED
    except OSError as error:
        status = print_error(RlmError(_reason(error)))
        discard_output()
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
    for group in (serving, solving, inspecting, contexts, runs, diagnostics, clients, demo):
        group.add(commands)
    return parser
