"""`doctor`: whether this machine, the sandbox and the model are ready."""

import argparse
import sys
from dataclasses import asdict

import anyio

from rlm_mcp.commands.output import print_json
from rlm_mcp.commands.registry import ANSWERED, FAILED, Commands, settings_of
from rlm_mcp.terminal import harmless


def add(commands: Commands) -> None:
    """Registers `doctor`."""
    parser = commands.add("doctor", lambda options: anyio.run(doctor, options), "check this machine, sandbox and model")
    parser.add_argument("--warm", action="store_true", help="compile the sandbox now, where it is not compiled yet")


async def doctor(options: argparse.Namespace) -> int:
    """Prints each check as it ends."""
    from rlm_mcp.doctor import examine

    def tell(text: str) -> None:
        print(f"  {text}", file=sys.stderr)

    checks = []
    async for check in examine(settings_of(options), warm=options.warm, on_progress=tell):
        checks.append(check)
        if not options.json:
            remedy = f"\n         {check.remedy}" if check.remedy else ""
            print(harmless(f"{check.status:<8} {check.name}: {check.detail}{remedy}"))
    if options.json:
        print_json([asdict(check) for check in checks])
    return FAILED if any(check.status == "failure" for check in checks) else ANSWERED
