"""Which sources are addresses, what they name, and what of them is shown."""

from dataclasses import replace

import pytest

from rlm_mcp.contexts.sources.address import is_address, parse_address, resolve_redirect, shown_address
from rlm_mcp.contexts.sources.remote import RemoteAccess, network_of
from rlm_mcp.errors import SourceRefused


@pytest.mark.parametrize(
    ("source", "kind", "url", "revision", "name", "shown"),
    [
        ("https://github.com/o/r", "git", "https://github.com/o/r", None, "r", "https://github.com/o/r"),
        ("https://github.com/o/r.git@v1.2", "git", "https://github.com/o/r.git", "v1.2", "r@v1.2", None),
        ("https://github.com/o/r@fix/a-b", "git", "https://github.com/o/r", "fix/a-b", "r@fix-a-b", None),
        ("https://github.com/o/r/tree/dev", "git", "https://github.com/o/r", "dev", "r@dev", "https://github.com/o/r@dev"),
        ("https://e.org/x/y.git", "git", "https://e.org/x/y.git", None, "y", "git+https://e.org/x/y.git"),
        ("git+https://e.org:8443/x@main", "git", "https://e.org:8443/x", "main", "x@main", None),
        ("git+ssh://git@e.org/x/y", "git", "ssh://git@e.org/x/y", None, "y", None),
        ("git@e.org:x/y.git", "git", "git@e.org:x/y.git", None, "y", "git@e.org:x/y.git"),
        ("git@e.org:y.git@v1", "git", "git@e.org:y.git", "v1", "y@v1", "git@e.org:y.git@v1"),
        ("git@e.org:/x/y.git", "git", "ssh://git@e.org/x/y.git", None, "y", "git+ssh://git@e.org/x/y.git"),
        ("git://e.org/x", "git", "git://e.org/x", None, "x", "git://e.org/x"),
        ("https://e.org/a/app.log?page=2#top", "file", "https://e.org/a/app.log?page=2", None, "app.log", "https://e.org/a/app.log?page=2"),
        ("https://[2001:db8::1]/a", "file", "https://[2001:db8::1]/a", None, "a", "https://[2001:db8::1]/a"),
        ("https://e.org", "file", "https://e.org/", None, "e.org", "https://e.org/"),
    ],
)  # fmt: skip
def test_an_address_names_a_repository_or_a_file(
    source: str, kind: str, url: str, revision: str | None, name: str, shown: str | None
) -> None:
    assert is_address(source)
    address = parse_address(source)
    assert (address.kind, address.url, address.revision, address.name) == (kind, url, revision, name)
    assert address.shown == (shown or address.shown)
    assert parse_address(address.shown) == address  # so that `refresh` fetches the same


@pytest.mark.parametrize(
    "path", ["app.log", "/srv/a@b:c", "C:\\logs\\a.txt", "file:///etc/hosts", "logs/**/*.log", "repo@v1.0", "A::B.3pm"]
)
def test_paths_are_no_addresses(path: str) -> None:
    assert not is_address(path)


@pytest.mark.parametrize(
    "source",
    [
        "ext::sh -c touch% /tmp/x",
        "ext::sh",
        "fd::17/foo",
        "http://e.org/a",
        "ftp://e.org/a",
        "git+file:///etc",
        "git+ext://e.org/a",
        "ssh://-oProxyCommand=touch/a",
        "git+ssh://-oProxyCommand=x@e.org/a",
        "git+ssh://a:secret@e.org/a",
        "https://github.com/o/r@--upload-pack=touch",
        "https://github.com/o/r@main:refs/heads/x",
        "https://github.com/o/r@../../x",
        "https://github.com/o/r@a..b",
        "https://github.com/o/r@^main",
        "https://github.com/o/r/blob/main/a.txt",
        "https://github.com/o/r/tree/main/docs",
        "https://github.com/o/r/tree/feature/x",
        "git+https://e.org/",
        "https://e.org\\@evil.org/",
        "https://e.org/a b",
        "https://e.org/a\nHost: b",
        "https:///a",
        "https://e.org:0/a",
        "https://e.org:99999/a",
        "https://[::1%25lo]/a",
        "https://e_org/a",
        f"https://e.org/{'a' * 5_000}",
    ],
)
def test_other_addresses_are_refused(source: str) -> None:
    assert is_address(source)
    with pytest.raises(SourceRefused):
        parse_address(source)


@pytest.mark.parametrize(
    "source",
    [
        "https://me:hunter2@e.org/a",
        "https://hunter2@github.com/o/r",
        "https://e.org/a?X-Amz-Signature=hunter2&n=1",
        "https://e.org/a?access_token=hunter2",
        "https://e.org/a?n=1;token=hunter2",
        "https://e.org/a?to=https%3A%2F%2Fe.org%2Fb%3Ftoken%3Dhunter2",
        "https://e.org/a#hunter2",
        "https://me:hunter2@e.org:99999/a",
        "ftp://me:hunter2@e.org/a?token=hunter2",
        "https://me:hunter2@e.org/a b",
        "git+ssh://me:hunter2@e.org/a",
    ],
)
def test_secrets_in_an_address_are_not_shown(source: str) -> None:
    assert "hunter2" not in shown_address(source)
    try:
        address = parse_address(source)
        said = repr(replace(address, query="")) + address.name
    except SourceRefused as error:
        said = str(error)
    assert "hunter2" not in said


def test_a_login_follows_a_redirect_to_its_own_host_only() -> None:
    address = parse_address("https://me:word@e.org/a")
    assert resolve_redirect(address, "/b").login.reveal() == "me:word"
    assert not resolve_redirect(address, "https://other.org/b").login
    assert not resolve_redirect(address, "https://e.org:444/b").login
    with pytest.raises(SourceRefused, match="without https"):
        resolve_redirect(address, "http://e.org/b")


@pytest.mark.parametrize("location", ["/\udcff", "/\x1b[2J", "/\u202e", f"/{'a' * 5_000}"])
def test_a_redirect_is_refused_whose_address_cannot_be_shown(location: str) -> None:
    with pytest.raises(SourceRefused, match=r"^https://e\.org/a redirects to an address that holds") as refused:
        resolve_redirect(parse_address("https://e.org/a"), location)
    assert (str(refused.value).isprintable(), len(str(refused.value)) < 300) == (True, True)


PRIVATE = """127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255
::1 :: fe80::1 fc00::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: ::127.0.0.1
2001:0:a00:1::f5ff:fffe 192.0.2.1 198.18.0.1 240.0.0.1 64:ff9b:1::7f00:1 ::ffff:0:127.0.0.1
fec0::1 fe80::1%eth0 300.1.1.1 localhost"""


@pytest.mark.parametrize("ip", PRIVATE.split())
def test_addresses_that_are_not_public_are_not_connected_to(ip: str) -> None:
    assert not RemoteAccess().allows(ip)


def test_public_addresses_and_allowed_networks_are_connected_to() -> None:
    assert RemoteAccess().allows("1.1.1.1")
    assert RemoteAccess().allows("2606:4700::1111")
    assert RemoteAccess().allows("64:ff9b::101:101")
    access = RemoteAccess(networks=(network_of("10.1.0.0/16"),))
    ips = ("10.1.2.3", "::ffff:10.1.2.3", "10.2.2.3", "127.0.0.1")
    assert [ip for ip in ips if access.allows(ip)] == ["10.1.2.3", "::ffff:10.1.2.3"]


@pytest.mark.parametrize(
    ("hosts", "allowed"),
    [
        (None, [True, True, True]),
        ((), [False, False, False]),
        (("*",), [True, True, True]),
        (("e.org",), [True, False, False]),
        (("*.e.org",), [False, True, False]),
    ],
)
def test_hosts_are_allowed_by_name_or_by_the_domain_above_them(
    hosts: tuple[str, ...] | None, allowed: list[bool]
) -> None:
    access, found = RemoteAccess(hosts=hosts), []
    for host in ("E.org", "a.e.org", "evile.org"):
        try:
            access.check_host(parse_address(f"https://{host}/x"))
            found.append(True)
        except SourceRefused:
            found.append(False)
    assert found == allowed


def test_ssh_is_refused_where_keys_are_not_to_be_used() -> None:
    with pytest.raises(SourceRefused, match="does not use ssh"):
        RemoteAccess(keys=False).check_host(parse_address("git+ssh://git@github.com/o/r"))
