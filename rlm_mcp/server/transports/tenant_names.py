"""Names of tenants. Each is a directory below `owners` in the data directory and in the cache directory.

A name therefore has to be one plain file name, on every system, that no other tenant's name is equal to. Names are
checked where they are made (`rlm-mcp token`), where a token file is read, and once more where a directory is opened.
"""

import hashlib
import re
from pathlib import Path

from mcp.server.auth.middleware.auth_context import get_access_token

from rlm_mcp.errors import SettingsError

EVERYBODY = "everybody"
"""The tenant where there are no tokens. Its directory is the data directory itself."""

_OAUTH = "oauth-"
_NAME = re.compile(r"[A-Za-z0-9_@](?:[A-Za-z0-9_.@-]{0,62}[A-Za-z0-9_@-])?")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
"""Names of devices on Windows, with any suffix."""


def check_tenant_name(name: str) -> str:
    """The name, if a token may have it. Raises SettingsError."""
    if _NAME.fullmatch(name) is None or _DEVICE.fullmatch(name):
        raise SettingsError(
            f"{name[:80]!r} is no name for a token: take 1 to 64 of the letters A to Z, digits and _ . @ -, which"
            " neither begin with . or - nor end with . and are no device of Windows"
        )
    if name.lower() == EVERYBODY or name.lower().startswith(_OAUTH):
        raise SettingsError(
            f"{name!r} is no name for a token: {EVERYBODY!r} is the tenant of a server without tokens, and names with"
            f" {_OAUTH!r} belong to users of an OAuth issuer"
        )
    return name


def oauth_tenant(issuer: str, subject: str) -> str:
    """The name of the tenant for a subject of an issuer: a hash, so any subject is fit for a directory."""
    who = f"{issuer}\0{subject}".encode("utf-8", "surrogatepass")
    return f"{_OAUTH}{hashlib.sha256(who).hexdigest()[:32]}"


def directory_of(tenant: str, parent: Path) -> Path:
    """The directory of a tenant below `parent`. Raises SettingsError for a name that would lead elsewhere."""
    if tenant == EVERYBODY:
        return parent
    if not tenant.startswith(_OAUTH):
        check_tenant_name(tenant)
    elif not re.fullmatch(r"[0-9a-f]{32}", tenant.removeprefix(_OAUTH)):
        raise SettingsError(f"{tenant[:80]!r} is no tenant of an OAuth issuer")
    return parent / "owners" / tenant


def current_tenant() -> str:
    """The name of the tenant that sent the current request, which is fit for a directory."""
    token = get_access_token()
    if token is None:
        return EVERYBODY
    if token.claims is None:
        return token.client_id
    return oauth_tenant(str(token.claims["iss"]), str(token.subject))


def tenant_directories(data_dir: Path) -> list[str]:
    """The names of all tenants that have a directory. Directories with other names are no tenant's."""
    return sorted(entry.name for entry in (data_dir / "owners").glob("*") if entry.is_dir() and _is_tenant(entry.name))


def _is_tenant(name: str) -> bool:
    try:
        directory_of(name, Path())
    except SettingsError:
        return False
    return name != EVERYBODY
