"""Which machines sources may be fetched from: allowed hosts, and public addresses unless networks are allowed.

A name is resolved here, and only the addresses that were checked are connected to, so that a name that leads elsewhere
at its next resolution (DNS rebinding) changes nothing. Proxies are not used: they resolve names themselves.
"""

import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

from rlm_mcp.contexts.processes import POLL_SECONDS
from rlm_mcp.contexts.sources.address import RemoteAddress
from rlm_mcp.contexts.timeout import Timeout
from rlm_mcp.errors import SourceRefused

MAX_FETCHED_BYTES = 1 << 30
FETCH_SECONDS = 600.0
IDLE_SECONDS = 30.0
"""Without a byte, a transfer ends after this time."""

CONNECT_SECONDS = 20.0
RESOLVE_SECONDS = 30.0
MAX_REDIRECTS = 5

IPNetwork = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Sequence[str]]

_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")


def resolve_name(host: str, port: int) -> Sequence[str]:
    """The addresses of a name. Raises OSError."""
    return list(dict.fromkeys(str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteAccess:
    """The policy for sources by address, and its limits.

    `hosts` are names, `*.example.org` for all names below one, or `*`; None means any. `networks` are those whose
    addresses are allowed though they are not public. `keys` allows ssh, which uses the keys of this user.
    `resolve` and `ca_file` stand for the machine's.
    """

    hosts: tuple[str, ...] | None = None
    networks: tuple[IPNetwork, ...] = ()
    keys: bool = True
    resolve: Resolve = resolve_name
    ca_file: Path | None = None
    most_bytes: int = MAX_FETCHED_BYTES
    seconds: float = FETCH_SECONDS

    def check_host(self, address: RemoteAddress) -> None:
        """Raises SourceRefused for a host that is not allowed."""
        if address.scheme == "ssh" and not self.keys:
            raise SourceRefused(f"{address.shown} is not fetched: this server does not use ssh; use https")
        if self.hosts is None or any(_matches(address.host.lower(), pattern.lower()) for pattern in self.hosts):
            return
        allowed = ", ".join(self.hosts) or "none are allowed"
        raise SourceRefused(
            f"{address.host} is not a host from which this server fetches sources ({allowed}): the operator may add it "
            "to RLM_MCP_FETCH_HOSTS"
        )

    def allows(self, ip: str) -> bool:
        """Whether an IP address may be connected to."""
        try:
            address = _embedded(ip_address(ip.partition("%")[0]))
        except ValueError:
            return False
        if any(address in network for network in self.networks if network.version == address.version):
            return True
        return address.is_global and not (
            address.is_multicast
            or address.is_reserved  # holds the networks of other translators to IPv4
            or getattr(address, "is_site_local", False)
        )


def find_addresses(access: RemoteAccess, address: RemoteAddress, *, check_cancelled: Callable[[], None]) -> list[str]:
    """The IP addresses of a host that may be connected to, at least one. Raises SourceRefused.

    A name is resolved on a thread of its own, which is left behind when the caller is cancelled.
    """
    host = address.host
    if not _is_ip(host):
        found, failed = list[str](), list[Exception]()

        def resolve() -> None:
            try:
                found.extend(access.resolve(host, address.port))
            except (OSError, UnicodeError) as error:
                failed.append(error)

        thread = threading.Thread(target=resolve, name="resolver", daemon=True)
        thread.start()
        timeout = Timeout(RESOLVE_SECONDS)
        while thread.is_alive() and not timeout.expired:
            check_cancelled()
            thread.join(POLL_SECONDS)
        if not found:
            reason = str(getattr(failed[0], "strerror", "") or type(failed[0]).__name__) if failed else "no answer"
            raise SourceRefused(f"the name {host} is not known ({reason}): check the address")
    else:
        found = [host]
    allowed = [ip for ip in found if access.allows(ip)]
    if not allowed:
        raise SourceRefused(
            f"{host} leads to an address that is not public, of this machine or its network: download the file "
            "yourself and register it, or add the network to RLM_MCP_FETCH_NETWORKS"
        )
    return allowed


def network_of(text: str) -> IPNetwork:
    """A network, from CIDR notation or a single address. Raises ValueError."""
    return ip_network(text, strict=False)


def _matches(host: str, pattern: str) -> bool:
    return pattern in {"*", host} or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _embedded(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address to which packets for an IPv6 address go in the end, if there is one."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour or address
    if address.teredo:
        return address.teredo[1]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
