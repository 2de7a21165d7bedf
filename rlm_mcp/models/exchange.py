"""The outcome of one HTTP request to a model endpoint: a response, or the reason why there is none."""

from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from rlm_mcp.models.retries import FailureKind

# A long reply of a slow local model: 16,000 tokens at 20 a second are 13 minutes.
REPLY_SECONDS = 900.0
CONNECT_SECONDS = 5.0
# A reply that is on its way when its call is cancelled has been paid for; it counts if it arrives within this time.
LATE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPResponse:
    """A response with any status. `location` is where a redirect points; redirects are not followed."""

    status: int
    text: str
    retry_after: float | None = None
    location: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoResponse:
    """A request without a response. `sent` tells that the provider may have received it and may bill it."""

    kind: FailureKind
    why: str
    sent: bool


def endpoint_url(base_url: str, path: str) -> str:
    """Returns the address of `path` below a base URL. A query of the base, Azure's api-version, follows the path.

    A `path` that is an address already, to which the server redirected, stays.
    """
    if path.startswith(("http://", "https://")):
        return path
    base, mark, query = base_url.partition("?")
    return base.rstrip("/") + path + mark + query


def redirect_target(url: str, answer: HTTPResponse) -> str:
    """Returns the address to which a response redirects, or "" if it does not."""
    return urljoin(url, answer.location) if 300 <= answer.status < 400 and answer.location else ""


def same_origin(url: str, other: str) -> bool:
    """Tells whether two addresses have the same scheme, host and port."""
    one, two = urlsplit(url), urlsplit(other)
    return (one.scheme, one.netloc) == (two.scheme, two.netloc)


def takes_azure_key(base_url: str, key: str) -> bool:
    """Tells whether an endpoint takes the key in Azure's header `api-key`. Tokens of Entra ID (JWT) are bearers."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    azure = host.endswith((".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"))
    return (azure or "api-version=" in parts.query) and not key.startswith("eyJ")
