"""The file with the bearer tokens of a server over HTTP.

It has one `NAME SHA256` a line, so no token can be read from it. A token is 256 random bits, so an unsalted hash is
enough: there is nothing to guess. NAME is the tenant whose contexts and runs the token opens.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from mcp.server.auth.provider import AccessToken

from rlm_mcp.errors import SettingsError
from rlm_mcp.server.transports.tenant_names import check_tenant_name

_LINE = re.compile(r"(?P<name>\S+)\s+(?P<digest>[0-9a-f]{64})")


class TokenFile:
    """Verifies tokens against their hashes. A TokenVerifier of the SDK."""

    def __init__(self, names: Mapping[str, str]) -> None:
        """`names` maps the hash of a token to its name."""
        self._names = names

    def __repr__(self) -> str:
        return f"<TokenFile of {len(self._names)} tokens>"

    @property
    def names(self) -> frozenset[str]:
        """The tenants that have a token."""
        return frozenset(self._names.values())

    async def verify_token(self, token: str) -> AccessToken | None:
        """The access token with its name, or None. Takes the same time for every token of the file."""
        digest = digest_of(token)
        found = [name for known, name in self._names.items() if hmac.compare_digest(known, digest)]
        return AccessToken(token=token, client_id=found[0], scopes=[], subject=found[0]) if found else None


def read_token_file(path: Path) -> TokenFile:
    """Reads a token file. Empty lines and lines that begin with # are skipped. Raises SettingsError."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the token file {path} cannot be read ({error}): make it with `rlm-mcp token`") from error
    names: dict[str, str] = {}
    spellings: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise SettingsError(f"line {number} of {path} is not NAME SHA256: write what `rlm-mcp token NAME` prints")
        try:
            name = check_tenant_name(match["name"])
        except SettingsError as error:
            raise SettingsError(f"line {number} of {path}: {error}") from error
        spelled = spellings.setdefault(name.lower(), name)
        if spelled != name:
            raise SettingsError(
                f"line {number} of {path}: {name!r} and {spelled!r} differ in case only, and some file systems have one"
                " directory for both: rename one of them"
            )
        names[match["digest"]] = name
    if not names:
        raise SettingsError(f"the token file {path} holds no token: add what `rlm-mcp token NAME` prints")
    return TokenFile(names)


def new_token() -> str:
    """A new random token."""
    return f"rlm_{secrets.token_urlsafe(32)}"


def digest_of(token: str) -> str:
    """The hash of a token, which a token file holds."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
