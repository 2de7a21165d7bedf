"""Machines on networks of their own, whose link to the storage can be cut: network namespaces of Linux.

    storage   198.18.N.0/24, a bridge: database and bucket listen on its address
    models    198.19.N.0/24, a bridge: the scripted model listens on its address

A node is a namespace with a link to both. While its link to the storage is cut, nothing that is sent arrives, and
nothing refuses it: connections hang, as they do where a cable was pulled. The model stays reachable.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_MOST_NETWORKS = 250
_FIRST_NODE = 10
"""The last byte of the address of the first node."""


class NetworksUnavailable(Exception):
    """This machine, or the rights of this process, have no namespaces; the text is the reason."""


@dataclass(slots=True, kw_only=True)
class Node:
    """A namespace whose processes reach storage and models by links of their own."""

    name: str
    number: int
    link: str
    """the end of its link to the storage that is on this side"""
    models_address: str
    """from which it reaches the models"""

    def command(self, *command: str) -> list[str]:
        """A command as one that runs on this node, in the process that is started."""
        return ["ip", "netns", "exec", self.name, *command]

    def cut(self) -> None:
        """Lets nothing through between it and the storage."""
        _ip("link", "set", self.link, "down")

    def mend(self) -> None:
        """Lets everything through again."""
        _ip("link", "set", self.link, "up")


@dataclass(slots=True)
class Networks:
    """The two networks and the nodes on them."""

    number: int
    nodes: list[Node] = field(default_factory=list)

    @property
    def storage_address(self) -> str:
        """Where database and bucket listen."""
        return f"198.18.{self.number}.1"

    @property
    def models_address(self) -> str:
        """Where the model listens."""
        return f"198.19.{self.number}.1"

    def bridges(self) -> dict[str, str]:
        """The names of the two bridges, with their addresses."""
        return {f"rlms{self.number}": self.storage_address, f"rlmm{self.number}": self.models_address}

    def add_node(self) -> Node:
        """One more node, linked to both."""
        taken = {node.number for node in self.nodes}
        number = next(number for number in range(_FIRST_NODE, 255) if number not in taken)
        name = f"rlm{self.number}-{number}"
        _ip("netns", "add", name)
        node = Node(
            name=name, number=number, link=self._link("rlms", number), models_address=f"198.19.{self.number}.{number}"
        )
        self.nodes.append(node)
        _ip("-n", name, "link", "set", "lo", "up")
        for bridge, address in self.bridges().items():
            link, inside = self._link(bridge, number), f"eth-{bridge[3]}"
            _ip("link", "add", link, "type", "veth", "peer", "name", inside, "netns", name)
            _ip("link", "set", link, "master", bridge, "up")
            _ip("-n", name, "address", "add", f"{address.rpartition('.')[0]}.{number}/24", "dev", inside)
            _ip("-n", name, "link", "set", inside, "up")
            # Known for ever: otherwise a new connection is refused once nobody answers who has the address.
            _ip("-n", name, "neighbour", "replace", address, "lladdr", _hardware_address(bridge), "dev", inside)
        return node

    def _link(self, bridge: str, number: int) -> str:
        """The name of the link between a bridge and a node, outside of the node."""
        return f"{bridge[3]}{self.number}-{number}"

    def remove(self, node: Node) -> None:
        """Removes a node, whose processes have ended."""
        self.nodes.remove(node)
        for bridge in self.bridges():  # the kernel would remove them some time after the namespace
            _ip("link", "delete", self._link(bridge, node.number))
        _ip("netns", "delete", node.name)


@contextmanager
def networks() -> Iterator[Networks]:
    """The networks, without nodes; all is gone at the end. Raises NetworksUnavailable."""
    made = _make_bridges()
    try:
        yield made
    finally:
        for node in list(made.nodes):
            made.remove(node)
        for bridge in made.bridges():
            _ip("link", "delete", bridge)


def why_unavailable() -> str:
    """Why this process cannot make networks; empty if it can."""
    try:
        with networks() as made:
            made.add_node()
    except NetworksUnavailable as error:
        return str(error)
    return ""


def _make_bridges() -> Networks:
    if sys.platform != "linux" or os.getuid() != 0 or shutil.which("ip") is None:
        raise NetworksUnavailable("network namespaces need Linux, root, and `ip` of the package iproute2")
    for number in range(1, _MOST_NETWORKS):
        made = Networks(number)
        first, _ = made.bridges()
        if (error := _error_of("link", "add", first, "type", "bridge")) and "exists" in error:
            continue  # of another process
        if error:
            raise NetworksUnavailable(f"this machine has no bridges ({error})")
        try:
            _furnish(made)
        except NetworksUnavailable:
            for bridge in made.bridges():
                with suppress(NetworksUnavailable):
                    _ip("link", "delete", bridge)
            raise
        return made
    raise NetworksUnavailable(f"all {_MOST_NETWORKS} networks are in use: `ip link` lists what others left")


def _furnish(made: Networks) -> None:
    first, second = made.bridges()
    _ip("link", "add", second, "type", "bridge")
    for bridge, address in made.bridges().items():
        _ip("link", "set", bridge, "address", f"02:00:00:00:{made.number:02x}:{int(bridge == first):02x}", "up")
        _ip("address", "add", f"{address}/24", "dev", bridge)


def _hardware_address(bridge: str) -> str:
    return Path(f"/sys/class/net/{bridge}/address").read_text().strip()


def _ip(*arguments: str) -> None:
    if error := _error_of(*arguments):
        raise NetworksUnavailable(f"`ip {' '.join(arguments)}` failed ({error})")


def _error_of(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607 - of the system
    return done.stderr.strip() or ("" if done.returncode == 0 else f"exit status {done.returncode}")
