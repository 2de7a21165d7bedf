"""The addresses of a cluster's storage, as settings have them: parsed, and shown without what must not be seen."""

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from rlm_mcp.errors import SettingsError
from rlm_mcp.redact import Secret

_STORE_EXAMPLE = "postgresql://USER:PASSWORD@HOST/DATABASE"
_BLOBS_EXAMPLE = "s3://BUCKET/PREFIX"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseAddress:
    """The URL of a Postgres database. `shown` has no password, and no parameters."""

    url: Secret
    password: Secret
    shown: str

    def scrub(self, text: str) -> str:
        """A text of the driver without the password."""
        return self.password.scrub(self.url.scrub(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketAddress:
    """A bucket, and the prefix of the keys in it; its endpoint and credentials come from the variables AWS_*."""

    bucket: str
    prefix: str = ""

    @property
    def shown(self) -> str:
        """As in the settings."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def parse_database(url: Secret, source: str = "RLM_MCP_STORE") -> DatabaseAddress:
    """The address that a URL has. Raises SettingsError, without the URL: it may hold a password."""
    text = url.reveal().strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"{source} is not a URL: write {_STORE_EXAMPLE}") from error
    if parts.scheme not in {"postgresql", "postgres"}:
        raise SettingsError(f"{source} is not the address of a Postgres database: write {_STORE_EXAMPLE}")
    parameters = dict(parse_qsl(parts.query))
    password = unquote(parts.password or "") or parameters.get("password", "")
    host = parts.hostname or parameters.get("host") or "localhost"
    place = host if host.startswith("/") else f"{host}:{port or parameters.get('port') or 5432}"
    return DatabaseAddress(
        url=Secret(text),
        password=Secret(password),
        shown=f"{place}/{parts.path.strip('/') or parts.username or ''}",
    )


def parse_bucket(url: str, source: str = "RLM_MCP_BLOBS") -> BucketAddress:
    """The bucket and the prefix that a URL has. Raises SettingsError."""
    try:
        parts = urlsplit(url.strip())
    except ValueError as error:
        raise SettingsError(f"{source} is not a URL: write {_BLOBS_EXAMPLE}") from error
    if parts.username or parts.password or parts.query:
        raise SettingsError(
            f"{source} contains more than a bucket and a prefix: write {_BLOBS_EXAMPLE}, and set AWS_ACCESS_KEY_ID,"
            " AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL for the rest"
        )
    if parts.scheme != "s3" or not parts.netloc:
        raise SettingsError(f"{source} is not the address of a bucket: write {_BLOBS_EXAMPLE}")
    return BucketAddress(bucket=parts.netloc, prefix=parts.path.strip("/"))
