"""Which clients are notified of changes, and when a client is forgotten."""

from collections.abc import Callable

import anyio
import pytest
from mcp import Client
from mcp.client.session import IncomingMessage

from rlm_mcp.server.notifications import Notifications
from rlm_mcp.server.server import RlmServer
from rlm_mcp.workspace.change_feed import ResourceChange
from rlm_mcp.workspace.workspace import Workspace

pytestmark = pytest.mark.anyio


class Caller:
    """The tenant of the next request."""

    def __init__(self) -> None:
        self.name = ""

    def __call__(self) -> str:
        return self.name


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture
def notifications(caller: Caller) -> Notifications:
    return Notifications(caller)


@pytest.fixture
def connect(workspace: Workspace, notifications: Notifications) -> Callable[..., Client]:
    server = RlmServer(lambda: workspace, notifications)

    def connected(era: str, heard: list[str] | None = None) -> Client:
        async def on_message(message: IncomingMessage) -> None:
            if heard is not None:
                heard.append(type(message).__name__)

        return Client(server, mode=era, message_handler=on_message)

    return connected


async def test_handshake_clients_hear_only_of_their_owners_changes(
    connect: Callable[..., Client], notifications: Notifications, caller: Caller
) -> None:
    heard: dict[str, list[str]] = {"ann": [], "bob": []}
    with anyio.fail_after(60):
        caller.name = "ann"
        async with connect("legacy", heard["ann"]) as ann:
            await ann.list_tools()
            caller.name = "bob"
            async with connect("legacy", heard["bob"]) as bob:
                await bob.list_tools()
                await notifications.announce(ResourceChange(), tenant="bob")
                await bob.list_prompts()  # what was sent before has come by now
                await ann.list_prompts()
    assert heard == {"ann": [], "bob": ["ResourceListChangedNotification"]}


async def test_listening_clients_hear_only_of_their_owners_changes(
    connect: Callable[..., Client], notifications: Notifications, caller: Caller
) -> None:
    caller.name = "ann"
    with anyio.fail_after(60):
        async with connect("auto") as ann, ann.listen(resources_list_changed=True) as events:
            await notifications.announce(ResourceChange(uri="rlm://runs/run-1"), tenant="bob")
            await notifications.announce(ResourceChange(), tenant="bob")
            await notifications.announce(ResourceChange(), tenant="ann")
            async for _ in events:
                break
        assert repr(notifications.bus) == "<TenantBus of 0 listeners>"


async def test_a_handshake_connection_that_ended_is_forgotten(
    connect: Callable[..., Client], notifications: Notifications
) -> None:
    with anyio.fail_after(60):
        for _ in range(20):
            async with connect("legacy") as client:
                await client.list_tools()
                assert repr(notifications) == "<Notifications to 1 handshake connections>"
    assert repr(notifications) == "<Notifications to 0 handshake connections>"
