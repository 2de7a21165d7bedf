"""The address of a cluster's database, as the settings have it: parsed, and shown without what must not be seen."""

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from rlm_mcp.errors import SettingsError
from rlm_mcp.redact import Secret

_STORE_EXAMPLE = "postgresql://USER:PASSWORD@HOST/DATABASE"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseAddress:
    """The URL of a Postgres database. `shown` has no password, and no parameters."""

    url: Secret
    password: Secret
    shown: str
    options: str = ""
    """settings of the session that the URL has"""

    def scrub(self, text: str) -> str:
        """A text of the driver without the password."""
        return self.password.scrub(self.url.scrub(text))


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
    parameters = dict(parse_qsl(parts.query.replace("+", "%2B")))  # libpq takes a plus as it is
    password = unquote(parts.password or "") or parameters.get("password", "")
    host = parts.hostname or parameters.get("host") or "localhost"
    place = host if host.startswith("/") else f"{host}:{port or parameters.get('port') or 5432}"
    return DatabaseAddress(
        url=Secret(text),
        password=Secret(password),
        shown=f"{place}/{parts.path.strip('/') or parts.username or ''}",
        options=parameters.get("options", ""),
    )
