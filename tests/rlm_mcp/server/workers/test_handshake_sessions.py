"""Which sessions the front remembers."""

from multidict import CIMultiDict

from rlm_mcp.server.transports.sessions import MOST_SESSIONS
from rlm_mcp.server.workers.handshake_sessions import MOST_OPENING_BYTES, HandshakeSession, HandshakeSessions
from tests.rlm_mcp.server.workers.test_supervisor import FakeWorker


def session(name: str, opening: bytes = b"{}") -> HandshakeSession:
    headers = CIMultiDict({"Authorization": "Bearer secret ann"})
    worker = FakeWorker(1, (), ())
    return HandshakeSession(path="/mcp", opening=opening, headers=headers, worker=worker, current_id=name, opened=None)


def test_a_tenant_that_has_too_many_loses_the_one_that_was_not_used_for_longest() -> None:
    sessions = HandshakeSessions()
    sessions.note("bob", session("of bob"))
    for number in range(MOST_SESSIONS):
        sessions.note("ann", session(str(number)))
    assert sessions.find("ann", "0") is not None
    sessions.note("ann", session("one more"))
    kept = [name for name in map(str, range(MOST_SESSIONS)) if sessions.find("ann", name)]
    assert kept == ["0", *map(str, range(2, MOST_SESSIONS))]
    assert sessions.find("bob", "of bob") is not None


def test_all_tenants_together_are_bounded_too() -> None:
    sessions = HandshakeSessions(most=3)
    for tenant in "abcd":
        sessions.note(tenant, session("s"))
    assert [tenant for tenant in "abcd" if sessions.find(tenant, "s")] == ["b", "c", "d"]
    sessions.forget("b", "s")
    assert repr(sessions) == "<HandshakeSessions, 2>"


def test_a_long_opening_is_not_kept_and_the_key_of_the_front_is_not_shown() -> None:
    sessions = HandshakeSessions()
    sessions.note("ann", session("s", b" " * (MOST_OPENING_BYTES + 1)))
    assert sessions.find("ann", "s") is None
    assert "secret" not in repr(session("s"))
