"""The address of a server over HTTP."""

import ipaddress

from rlm_mcp.errors import SettingsError


def parse_address(address: str) -> tuple[str, int]:
    """`HOST:PORT`, `[::1]:PORT` or `PORT`. Raises SettingsError."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or not 0 <= int(port) <= 65535:
        raise SettingsError(f"--http {address!r} is no address: write --http 127.0.0.1:8765")
    return host.strip("[]") or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    """Whether the host is reachable only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url_of(host: str, port: int) -> str:
    """The URL of a server at this address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
