"""Known limits of MCP clients, by the name that they send: the longest call and result, and the form of results.

Nobody publishes these figures. They were measured in November 2026 with a server whose calls and results were made
longer and longer, or are those of the client's own documentation. A client that is not listed gets UNKNOWN.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ReadForm = Literal["text", "structured", "both", "either"]
"""The part of a result that reaches the model: `content`, `structuredContent`, both, or it is not known which one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """`seconds` is the longest wait that the client bears, `chars` the longest result that reaches its model whole."""

    seconds: float = 55.0
    """SDK clients give up after 60 s."""
    chars: int = 8_000
    reads: ReadForm = "either"


UNKNOWN = ClientLimits()

CLIENTS: Mapping[str, ClientLimits] = {
    # Calls over 2 minutes go to the background; results of more than 25,000 tokens are cut.
    "claude-code": ClientLimits(seconds=100, chars=20_000, reads="structured"),
    "claude-ai": ClientLimits(chars=20_000),  # Claude Desktop: 60 s on some surfaces, a megabyte
    "codex": ClientLimits(chars=10_000, reads="structured"),  # 60 s; 10,000 bytes, with some tolerance
    "gemini-cli": ClientLimits(seconds=290, chars=20_000, reads="text"),  # 10 minutes
    "opencode": ClientLimits(chars=20_000, reads="text"),  # 60 s; 45,000 characters and more
    "continue": ClientLimits(chars=20_000, reads="text"),  # 60 s; 45,000 characters and more
    "qwen-cli": ClientLimits(seconds=280, chars=16_000, reads="both"),  # 300 s; 24,000, then a file with the rest
    "copilot-cli": ClientLimits(seconds=170, chars=12_000, reads="both"),  # 180 s; 18,000, then 500 and a file
    "cline": ClientLimits(chars=6_000, reads="both"),  # 8,000 of the whole result as JSON, cut in the middle
    "copilot": ClientLimits(seconds=25),  # Copilot for JetBrains: 30 s
    "jetbrains": ClientLimits(seconds=25),
}
"""part of the client's name -> its limits; the first that fits counts"""


def limits_of_client(name: str) -> ClientLimits:
    """The limits of the client with this name."""
    name = name.lower()
    return next((limits for part, limits in CLIENTS.items() if part in name), UNKNOWN)
