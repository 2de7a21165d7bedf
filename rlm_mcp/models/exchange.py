"""One exchange with an endpoint: a request of JSON out, and a response of HTTP, or none, in.

Two senders keep this protocol: plainhttp.py for local servers, and the library of openai.py for all others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rlm_mcp.models.retries import FailureKind

# A long reply of a slow local model: 16,000 tokens at 20 a second are 13 minutes.
REPLY_SECONDS = 900.0
CONNECT_SECONDS = 5.0
# A call that is cancelled has been paid for once its reply is on the way: it is taken in, if it comes within this time.
LATE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response of HTTP, whatever its status."""

    status: int
    text: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """A request that brought no response. `sent` says that the provider may have seen, and may bill it."""

    kind: FailureKind
    why: str
    sent: bool


class Sender(Protocol):
    """Sends requests to one endpoint, as many at once as it is asked to."""

    async def send(self, path: str, body: Mapping[str, Any] | None) -> Answer | NoAnswer:
        """One POST of `body`, or a GET where it is None.

        When the caller is cancelled it still returns an answer that comes within LATE_SECONDS; the cancellation takes
        effect where the caller next waits. Otherwise the connection is closed, so that the server stops its work.
        """

    async def aclose(self) -> None:
        """Closes the connections."""


def no_connection(why: str) -> NoAnswer:
    """Nothing listens there."""
    return NoAnswer(kind="unreachable", why=why, sent=False)


def no_connection_in_time() -> NoAnswer:
    """Nothing has answered to the knock."""
    return NoAnswer(kind="unreachable", why=f"{CONNECT_SECONDS:g} s have passed", sent=False)


def no_reply_in_time() -> NoAnswer:
    """The connection stands, and nothing comes."""
    return NoAnswer(kind="timeout", why=f"{REPLY_SECONDS:g} s have passed", sent=True)
