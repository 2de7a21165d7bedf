"""Sources by address and from standard input: what becomes a context, what is recorded, and what is refused."""

import gzip
import io
import os
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import chdir, suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from shutil import rmtree
from urllib.parse import urlsplit

import pytest

from rlm_mcp.contexts.sources.remote import RemoteAccess
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import SourceRefused
from tests.rlm_mcp.contexts.sources.remote_servers import (
    HOST,
    RemoteServer,
    git,
    git_daemon,
    https_server,
    make_repository,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the servers of these tests need POSIX")

LINES = (b"# service=git-upload-pack\n", b"", b"version 2\n", b"ls-refs\n", b"fetch=shallow\n", b"")
ADVERTISEMENT = b"".join(b"%04x%s" % (len(line) + 4, line) if line else b"0000" for line in LINES)
"""What git's server answers to the first request."""


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteServer]:
    with https_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repositories")


@pytest.fixture
def store(remote: RemoteServer, tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "data", access=remote.access()) as store:
        yield store


def store_with(tmp_path: Path, access: RemoteAccess) -> Store:
    return Store(tmp_path / "data", access=access)


def text_of(store: Store, ref: str, path: str | None = None) -> str:
    return store.read_lines(store.get(ref), 1, None, path=path).text


def leftovers(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "data" / "contexts" / "incoming").rglob("*") if path.is_file()]


# --- files


def test_a_file_over_https_is_a_text_with_its_version_on_record(
    store: Store, remote: RemoteServer, tmp_path: Path
) -> None:
    remote.say("/app.log", b"one\ntwo\n", ETag='"v1"', Last_Modified="Mon, 30 Nov 2026 00:00:00 GMT")
    context = store.register_source(remote.url("/app.log"))
    assert (context.name, context.kind, context.source) == ("app.log", "text", remote.url("/app.log"))
    assert text_of(store, "app.log") == "one\ntwo\n"
    (note,), digest = context.notes, sha256(b"one\ntwo\n").hexdigest()
    assert note.startswith(f"fetched from {remote.url('/app.log')} on 20")
    assert note.endswith(f': 8 bytes, SHA-256 {digest}, ETag "v1"')
    assert leftovers(tmp_path) == []


def test_refresh_fetches_again_and_keeps_the_version_that_was_cited(store: Store, remote: RemoteServer) -> None:
    remote.say("/daily.txt", b"monday\n")
    first = store.register_source(remote.url("/daily.txt"))
    assert store.refresh("daily.txt") == first
    remote.say("/daily.txt", b"tuesday\n")
    second = store.refresh("daily.txt")
    assert (second.version, text_of(store, "daily.txt")) == (2, "tuesday\n")
    assert text_of(store, first.context_id) == "monday\n"


def test_an_archive_over_https_is_unpacked_in_place(store: Store, remote: RemoteServer) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("d/a.txt")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"text\n"))
    remote.say("/all.tar.gz", packed.getvalue())
    assert store.register_source(remote.url("/all.tar.gz"), name="all").files == 1
    assert text_of(store, "all", "d/a.txt") == "text\n"


def test_redirects_are_followed_and_the_last_address_is_told(store: Store, remote: RemoteServer) -> None:
    remote.say("/new.txt", b"moved\n")
    remote.redirect("/old.txt", "/new.txt")
    context = store.register_source(remote.url("/old.txt"))
    assert context.source == remote.url("/old.txt")
    assert context.notes[0].startswith(f"fetched from {remote.url('/new.txt')} on ")


def test_a_body_that_is_packed_though_nobody_asked_is_unpacked(store: Store, remote: RemoteServer) -> None:
    remote.say("/packed.txt", gzip.compress(b"plain\n"), Content_Encoding="gzip")
    store.register_source(remote.url("/packed.txt"))
    assert text_of(store, "packed.txt") == "plain\n"
    remote.say("/brotli.txt", b"?", Content_Encoding="br")
    with pytest.raises(SourceRefused, match="was sent packed as 'br'"):
        store.register_source(remote.url("/brotli.txt"))


def test_a_login_is_sent_to_its_host_only_and_kept_nowhere(store: Store, remote: RemoteServer, tmp_path: Path) -> None:
    remote.say("/private.txt", b"for me\n")
    address = remote.url("/private.txt", login="me:hunter2@")
    context = store.register_source(address)
    path, headers = remote.asked[-1]
    assert (path, headers["Authorization"]) == ("/private.txt", "Basic bWU6aHVudGVyMg==")
    with pytest.raises(SourceRefused, match="register the whole address of"):
        store.refresh(context.name)
    assert [f for f in (tmp_path / "data").rglob("*") if f.is_file() and b"hunter2" in f.read_bytes()] == []


@pytest.mark.parametrize(
    ("status", "words"), [(401, "needs a login"), (404, "does not exist there"), (503, "try again later")]
)
def test_a_file_that_is_not_given_is_refused_in_words(
    store: Store, remote: RemoteServer, tmp_path: Path, status: int, words: str
) -> None:
    remote.say("/no", b"", status)
    with pytest.raises(SourceRefused, match=words):
        store.register_source(remote.url("/no"))
    assert leftovers(tmp_path) == []


def test_errors_about_a_file_name_its_address(store: Store, remote: RemoteServer) -> None:
    remote.say("/empty", b"")
    with pytest.raises(SourceRefused, match=f"^{remote.url('/empty')} is empty"):
        store.register_source(remote.url("/empty"))
    remote.say("/binary", bytes(range(256)) * 8)
    with pytest.raises(SourceRefused, match=f"^{remote.url('/binary')} is binary"):
        store.register_source(remote.url("/binary"))


# --- attacks on files


def test_a_redirect_to_this_machine_or_to_another_host_is_refused(remote: RemoteServer, tmp_path: Path) -> None:
    def resolve(host: str, _port: int) -> list[str]:
        return ["127.0.0.1"] if host == HOST else ["169.254.169.254"]

    for target in ("https://metadata.example/x", "https://169.254.169.254/x", "https://[::1]/x", "https://127.1.1.1/x"):
        remote.redirect("/away", target)
        only = remote.access(resolve=resolve, networks=remote.access().networks if "127" not in target else ())
        with store_with(tmp_path, only) as store, pytest.raises(SourceRefused, match="not public"):
            store.register_source(remote.url("/away"))
    remote.redirect("/away", f"https://other.example:{remote.port}/x")
    with (
        store_with(tmp_path, remote.access(hosts=(HOST,))) as store,
        pytest.raises(SourceRefused, match=r"other\.example is not a host from which"),
    ):
        store.register_source(remote.url("/away"))


def test_a_name_that_leads_elsewhere_at_its_next_resolution_is_connected_to_as_checked(
    remote: RemoteServer, tmp_path: Path
) -> None:
    asked: list[str] = []

    def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    remote.say("/once", b"text\n")
    with store_with(tmp_path, remote.access(resolve=resolve)) as store:
        store.register_source(remote.url("/once"))
        assert asked == [HOST]
        with pytest.raises(SourceRefused, match="not public"):
            store.register_source(remote.url("/once"))


def test_of_several_addresses_only_public_ones_are_tried(remote: RemoteServer, tmp_path: Path) -> None:
    remote.say("/both", b"text\n")
    access = remote.access(resolve=lambda _host, _port: ["10.0.0.1", "127.0.0.1"])
    with store_with(tmp_path, access) as store:
        assert store.register_source(remote.url("/both")).bytes == 5


def test_redirects_without_end_and_to_http_are_refused(store: Store, remote: RemoteServer) -> None:
    remote.redirect("/loop", "/loop")
    with pytest.raises(SourceRefused, match="redirects more than 5 times"):
        store.register_source(remote.url("/loop"))
    remote.redirect("/plain", "http://example.org/x")
    with pytest.raises(SourceRefused, match="without https"):
        store.register_source(remote.url("/plain"))


def test_a_body_without_end_stops_at_the_bound_and_leaves_nothing(remote: RemoteServer, tmp_path: Path) -> None:
    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(b"x" * 65_536)

    remote.answers["/endless"] = endless
    remote.say("/claims", b"x" * 100, Content_Length=str(1 << 40))
    with store_with(tmp_path, remote.access(most_bytes=1_000_000)) as store:
        for path in ("/endless", "/claims"):
            with pytest.raises(SourceRefused, match="larger than 1,000,000 bytes"):
                store.register_source(remote.url(path))
    assert leftovers(tmp_path) == []


def test_a_silent_server_ends_with_the_callers_cancel_and_with_the_time(remote: RemoteServer, tmp_path: Path) -> None:
    class Cancelled(Exception):
        pass

    def silent(request: BaseHTTPRequestHandler) -> None:
        with suppress(OSError):
            request.rfile.read(1)

    def cancel(_files: int, _bytes: int) -> None:
        if remote.asked[-1:] and remote.asked[-1][0] == "/silent":
            raise Cancelled

    remote.answers["/silent"] = silent
    with store_with(tmp_path, remote.access(seconds=0.3)) as store:
        with pytest.raises(SourceRefused, match="took longer than 0 s"):
            store.register_source(remote.url("/silent"))
        remote.asked.clear()
        with pytest.raises(Cancelled):
            store.register_source(remote.url("/silent"), on_progress=cancel)


def test_redirects_and_the_fetch_of_a_repository_share_one_time(
    remote: RemoteServer, repositories: Path, tmp_path: Path
) -> None:
    def hesitate(request: BaseHTTPRequestHandler) -> None:
        request.connection.settimeout(0.2)
        with suppress(OSError):
            request.rfile.read(1)
        request.send_response(302)
        step = urlsplit(request.path)
        number = int(step.path[5]) + 1
        to = f"{step.path[:5]}{number}{step.path[6:]}" if number < 5 else step.path.replace("/step5", "/git/slow.git")
        request.send_header("Location", f"{to}?{step.query}")
        request.end_headers()

    remote.answers |= {f"/step{number}{rest}": hesitate for number in range(5) for rest in ("", "/info/refs")}
    remote.serve_repositories(repositories)
    make_repository(repositories / "slow.git", {"a.txt": "one\n"})
    with store_with(tmp_path, remote.access(seconds=0.5)) as store:
        for address in (remote.url("/step0"), f"git+{remote.url('/step0')}"):
            with pytest.raises(SourceRefused, match="took longer than 0 s"):
                store.register_source(address)


def test_a_bomb_is_refused_while_it_is_unpacked(store: Store, remote: RemoteServer, tmp_path: Path) -> None:
    packer = zlib.compressobj(9, wbits=31)
    block = b"text" * (1 << 18)
    bomb = b"".join(packer.compress(block) for _ in range(80)) + packer.flush()
    remote.say("/bomb.txt", bomb, Content_Encoding="gzip")
    with pytest.raises(SourceRefused, match="as bombs do"):
        store.register_source(remote.url("/bomb.txt"))
    assert leftovers(tmp_path) == []


def test_a_certificate_that_nobody_vouches_for_is_refused(remote: RemoteServer, tmp_path: Path) -> None:
    with store_with(tmp_path, remote.access(ca_file=None)) as store, pytest.raises(SourceRefused, match="certificate"):
        store.register_source(remote.url("/app.log"))


def test_files_named_like_credentials_are_not_fetched(store: Store, remote: RemoteServer) -> None:
    with pytest.raises(SourceRefused, match="holds credentials"):
        store.register_source(remote.url("/home/.env"))


# --- repositories


def test_a_repository_is_its_files_at_a_revision_that_is_on_record(
    store: Store, remote: RemoteServer, repositories: Path, tmp_path: Path
) -> None:
    remote.serve_repositories(repositories)
    commit = make_repository(repositories / "shop.git", {"a.txt": "one\n", "src/b.py": "two\n", ".env": "KEY=1\n"})
    context = store.register_source(remote.url("/git/shop.git"))
    assert (context.name, context.source) == ("shop", f"git+{remote.url('/git/shop.git')}")
    assert [file.path for file in store.files(context)] == ["a.txt", "src/b.py"]
    assert f"at commit {commit} on 20" in context.notes[1]
    assert leftovers(tmp_path) == []


def test_a_branch_a_tag_and_a_commit_are_revisions_and_refresh_follows_a_branch(
    store: Store, remote: RemoteServer, repositories: Path
) -> None:
    remote.serve_repositories(repositories)
    folder = repositories / "moving.git"
    first = make_repository(folder, {"a.txt": "one\n"})
    git(folder, "tag", "-a", "v1", "-m", "one")
    branch = store.register_source(f"{remote.url('/git/moving.git')}@main")
    (folder / "a.txt").write_text("two\n")
    git(folder, "commit", "--quiet", "-am", "two")
    assert (store.refresh(branch.name).version, text_of(store, branch.name)) == (2, "two\n")
    assert text_of(store, store.register_source(f"{remote.url('/git/moving.git')}@v1").name) == "one\n"
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    assert text_of(store, store.register_source(f"{remote.url('/git/moving.git')}@{first}").name) == "one\n"
    with pytest.raises(SourceRefused, match="has no revision 'v9'"):
        store.register_source(f"{remote.url('/git/moving.git')}@v9")


def test_a_repository_that_moved_is_found_where_its_address_redirects(
    store: Store, remote: RemoteServer, repositories: Path
) -> None:
    remote.serve_repositories(repositories)
    make_repository(repositories / "here.git", {"a.txt": "here\n"})
    remote.redirect("/gone/info/refs", remote.url("/git/here.git/info/refs?service=git-upload-pack"))
    context = store.register_source(f"git+{remote.url('/gone')}")
    assert (context.name, text_of(store, "gone")) == ("gone", "here\n")


def test_gits_own_protocol_is_spoken_too(store: Store, repositories: Path) -> None:
    make_repository(repositories / "daemon.git", {"a.txt": "one\n"})
    with git_daemon(repositories) as port:
        assert store.register_source(f"git://{HOST}:{port}/daemon.git").files == 1


# --- attacks on repositories


def test_nothing_of_a_hostile_repository_is_run_or_followed(
    store: Store, remote: RemoteServer, repositories: Path, tmp_path: Path
) -> None:
    remote.serve_repositories(repositories)
    folder, mark = repositories / "hostile.git", tmp_path / "was-run"
    make_repository(
        folder,
        {
            "a.txt": "text\n",
            ".gitattributes": "*.txt filter=evil\n",
            ".gitmodules": f'[submodule "m"]\n path = m\n url = ext::touch {mark}\n update = !touch {mark}\n',
            ".git-config": f'[filter "evil"]\n smudge = touch {mark}\n',
        },
    )
    (folder / "link").symlink_to("/etc/passwd")
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},m")
    git(folder, "add", "link")
    git(folder, "commit", "--quiet", "-m", "two")
    for hook in ("post-checkout", "post-merge", "reference-transaction"):
        (folder / ".git" / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (folder / ".git" / "hooks" / hook).chmod(0o755)
    context = store.register_source(remote.url("/git/hostile.git"))
    assert [file.path for file in store.files(context)] == [".git-config", ".gitattributes", ".gitmodules", "a.txt"]
    assert {item.path: item.reason.partition(":")[0] for item in store.skipped(context)} == {
        "link": "link inside a revision",
        "m": "submodule",
    }
    assert not mark.exists()


def test_the_protocol_of_plain_files_is_refused_since_it_names_other_servers(
    store: Store, remote: RemoteServer
) -> None:
    remote.say("/dumb/info/refs", f"{'1' * 40}\trefs/heads/main\n".encode(), Content_Type="text/plain")
    remote.say("/dumb/objects/info/http-alternates", b"https://127.0.0.1/secret/objects\n")
    with pytest.raises(SourceRefused, match="is not a git repository"):
        store.register_source(f"git+{remote.url('/dumb')}")
    assert [path for path, _ in remote.asked if "alternates" in path] == []


def test_git_is_not_led_elsewhere_after_the_address_was_checked(store: Store, remote: RemoteServer) -> None:
    remote.say("/led/info/refs", ADVERTISEMENT, Content_Type="application/x-git-upload-pack-advertisement")
    remote.redirect("/led/git-upload-pack", f"https://other.example:{remote.port}/stolen")
    with pytest.raises(SourceRefused, match="cannot be fetched: git says"):
        store.register_source(f"git+{remote.url('/led')}")
    paths = [path for path, _ in remote.asked]
    assert ("/led/git-upload-pack" in paths, "/stolen" in paths) == (True, False)


def commands_with(part: str) -> list[bytes]:
    """Those of processes; none where there is no /proc."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            commands.append((process / "cmdline").read_bytes())
    return [command for command in commands if part.encode() in command]


def test_git_and_what_it_started_end_with_the_callers_cancel(
    store: Store, remote: RemoteServer, tmp_path: Path
) -> None:
    class Cancelled(Exception):
        pass

    def hang(request: BaseHTTPRequestHandler) -> None:
        with suppress(OSError):
            request.rfile.read(1 << 20)

    def cancel(_files: int, _bytes: int) -> None:
        if remote.asked[-1:] and remote.asked[-1][0] == "/hung/git-upload-pack":
            raise Cancelled

    remote.say("/hung/info/refs", ADVERTISEMENT, Content_Type="application/x-git-upload-pack-advertisement")
    remote.answers["/hung/git-upload-pack"] = hang
    with pytest.raises(Cancelled):
        store.register_source(f"git+{remote.url('/hung')}", on_progress=cancel)
    ends = time.monotonic() + 60
    while (left := commands_with(f"{remote.port}/hung")) and time.monotonic() < ends:
        time.sleep(0.01)  # what was killed is gone a moment later
    assert left == []
    assert leftovers(tmp_path) == []


def test_errors_about_a_repository_name_its_address(
    store: Store, remote: RemoteServer, repositories: Path, tmp_path: Path
) -> None:
    def spoil(_files: int, _bytes: int) -> None:
        for folder in (tmp_path / "data").rglob("repository"):
            rmtree(folder / "objects", ignore_errors=True)
            (folder / "objects").touch()

    remote.serve_repositories(repositories)
    make_repository(repositories / "spoiled.git", {"a.txt": "one\n"})
    with pytest.raises(SourceRefused) as refused:
        store.register_source(remote.url("/git/spoiled.git"), on_progress=spoil)
    assert remote.url("/git/spoiled.git") in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


def test_a_repository_beyond_the_bound_is_refused_and_leaves_nothing(
    remote: RemoteServer, repositories: Path, tmp_path: Path
) -> None:
    remote.serve_repositories(repositories)
    folder = repositories / "large.git"
    make_repository(folder, {"a.txt": os.urandom(300_000).hex()})
    with (
        store_with(tmp_path, remote.access(most_bytes=200_000)) as store,
        pytest.raises(SourceRefused, match="larger than 200,000 bytes"),
    ):
        store.register_source(remote.url("/git/large.git"))
    assert leftovers(tmp_path) == []


def test_trees_inside_each_other_that_stand_for_ten_billion_files_are_refused(
    store: Store, remote: RemoteServer, repositories: Path
) -> None:
    remote.serve_repositories(repositories)
    folder = repositories / "trees.git"
    make_repository(folder, {"a.txt": "x\n"})
    entry = f"100644 blob {git(folder, 'rev-parse', 'HEAD:a.txt')}"
    for _ in range(10):
        lines = "".join(f"{entry}\t{'n' * 100}{number}\n" for number in range(10))
        entry = f"040000 tree {git(folder, 'mktree', stdin=lines.encode())}"
    commit = git(folder, "commit-tree", entry.split()[2], "-m", "bomb")
    git(folder, "update-ref", "refs/heads/main", commit)
    with pytest.raises(SourceRefused, match="holds more than 200,000 files"):
        store.register_source(remote.url("/git/trees.git"))


def test_a_file_that_is_listed_many_times_is_counted_as_often(
    store: Store, remote: RemoteServer, repositories: Path
) -> None:
    remote.serve_repositories(repositories)
    folder = repositories / "many.git"
    make_repository(folder, {"a.txt": "x" * 1_000_000})
    blob = git(folder, "rev-parse", "HEAD:a.txt")
    tree = git(folder, "mktree", stdin="".join(f"100644 blob {blob}\t{n}\n" for n in range(100)).encode())
    git(folder, "update-ref", "refs/heads/main", git(folder, "commit-tree", tree, "-m", "bomb"))
    with pytest.raises(SourceRefused, match="expands from"):
        store.register_source(remote.url("/git/many.git"))


# --- standard input


def test_standard_input_is_read_to_its_end_and_packed_or_not(store: Store, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(gzip.compress(b"one\ntwo\n"))
    with (tmp_path / "input").open("rb") as stdin:
        context = store.register_source("-", stdin=stdin)
    assert (context.name, context.source, text_of(store, "stdin")) == ("stdin", "stdin", "one\ntwo\n")
    assert store.refresh("stdin") == context


def test_a_file_whose_name_looks_like_an_address_is_itself(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "git@host:app.log"
    path.write_text("text\n")
    assert store.register_source(str(path)).bytes == 5
    with chdir(tmp_path):
        assert store.register_source(path.name, name="here").bytes == 5


def test_a_dash_is_a_path_where_there_is_no_standard_input(store: Store) -> None:
    with pytest.raises(SourceRefused, match="does not exist"):
        store.register_source("-")
