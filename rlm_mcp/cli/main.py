"""The command line. Results go to stdout, everything else to stderr; `DESCRIPTION` lists the exit statuses."""

import argparse
import errno
import sys
from collections.abc import Sequence

from rlm_mcp.cli.commands import serving
from rlm_mcp.cli.commands.registry import ANSWERED, FAILED, Commands, common_flags
from rlm_mcp.cli.commands.streams import discard_output, escape_unencodable, is_reader_gone, open_closed_streams
from rlm_mcp.errors import RlmError
from rlm_mcp.version import __version__

DESCRIPTION = (
    "Answers questions over inputs far larger than a model's context window. Without a command, rlm-mcp serves "
    "MCP on stdio. Results go to stdout, everything else goes to stderr. The exit status is 0 for an answer, 1 for a "
    "failure, 2 for wrong usage, and 3 for a partial answer after a limit stopped the run."
)

DEFAULTS = {"handler": serving.serve, "http": None, "runs": None, "json": False, "quiet": False}
"""The options of a command line without arguments."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    open_closed_streams()
    escape_unencodable()
    given = sys.argv[1:] if argv is None else argv
    # Most servers are started without arguments; making the parser takes longer than their first answers.
    options = command_parser().parse_args(given) if given else argparse.Namespace(**DEFAULTS)
    try:
        status: int = options.handler(options)
        print(end="", flush=True)
    except BrokenPipeError as error:
        gone = is_reader_gone()  # such as `head`, which stops reading
        status = ANSWERED if gone else _failed(RlmError(_reason(error)))
        discard_output()
    except RlmError as error:
        return _failed(error)
    except KeyboardInterrupt:
        print("rlm-mcp: interrupted", file=sys.stderr)
        return FAILED
    except OSError as error:
        status = _failed(RlmError(_reason(error)))
        discard_output()
    return status


def _failed(error: RlmError) -> int:
    from rlm_mcp.cli.commands.output import print_error

    return print_error(error)


def _reason(error: OSError) -> str:
    """The sentence for an error of a file that the user named, or of the output stream."""
    if error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    what = "the output cannot be written" if error.errno in {errno.ENOSPC, errno.EIO, errno.EFBIG} else "it failed"
    return f"{what} ({error.strerror or error}): the answers of runs are on record, see `rlm-mcp runs list`"


def command_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with all commands."""
    from rlm_mcp.cli.commands import clients, contexts, diagnostics, inspecting, packages, runs, solving

    # Its own flags: defaults set on flags that the commands share would replace what stands before the command.
    parser = argparse.ArgumentParser(prog="rlm-mcp", description=DESCRIPTION, parents=[common_flags()])
    parser.set_defaults(**DEFAULTS)
    parser.add_argument("--version", action="version", version=__version__)
    commands = Commands(parser, common_flags())
    for group in (serving, solving, inspecting, contexts, packages, runs, clients, diagnostics):
        group.add_commands(commands)
    return parser
