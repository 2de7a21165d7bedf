import contextlib
import gzip
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from shutil import which

import pytest

from rlm_mcp.contexts.store.store import Store
from rlm_mcp.contexts.types import Skipped
from rlm_mcp.errors import OutsideRoots, SourceRefused

SECRETS = """
.env.local id_rsa server.pem .ssh/config .aws/credentials x/.netrc a.tfstate ID_RSA SERVER.PEM .ENV prod.env
kubeconfig dev.kubeconfig terraform.tfstate.backup service_account.json my-service-account-1.json
x-firebase-adminsdk-y.json client_secret_1.json application_default_credentials.json secrets.json secret.yaml
.cargo/credentials.toml .config/gh/hosts.yml .config/gcloud/x .vault-token .boto .s3cfg .dockercfg .m2/settings.xml
AuthKey.p8 .bash_history .docker/config.json .pgpass id_ed25519.bak .env.gz deploy_rsa
"""


def write(directory: Path, texts: dict[str, str | bytes]) -> Path:
    for name, text in texts.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return directory


def paths(store: Store, source: Path | str) -> list[str]:
    return [entry.path for entry in store.files(store.register_source(str(source)))]


def test_a_directory_is_its_texts_and_a_list_of_what_was_left_out(store: Store, files: Path) -> None:
    write(
        files,
        {
            "b.txt": "b\n",
            "a/x.py": "x\n",
            "empty": "",
            "photo.png": b"\x89PNG\r\n\x1a\n\0\0\0\1" * 9,
            ".git/config": "secret",
            ".env": "K=1",
        },
    )
    context = store.register_source(str(files))
    assert (context.kind, context.files, context.bytes, context.skipped) == ("files", 3, 4, 3)
    assert [entry.path for entry in store.files(context)] == ["a/x.py", "b.txt", "empty"]
    assert store.skipped(context) == (
        Skipped(path=".env", reason="secret: its name says that it holds credentials"),
        Skipped(path=".git/", reason="the repository itself: register it by itself if it matters"),
        Skipped(path="photo.png", reason="it is binary, not text"),
    )


@pytest.mark.parametrize(
    "name",
    SECRETS.split(),
)
def test_secrets_are_left_out_unless_asked_for(store: Store, files: Path, name: str) -> None:
    write(files, {name: "secret\n", "readme": "x\n"})
    context = store.register_source(str(files))
    assert [entry.path for entry in store.files(context)] == ["readme"]
    assert context.notes == (f"left out because their names say that they hold credentials: {name}",)
    with pytest.raises(SourceRefused, match="is not registered because its name says that it holds credentials"):
        store.register_source(str(files / name))
    assert store.register_source(str(files), include_secrets=True).files == 2


@pytest.mark.parametrize(
    "name",
    [".aws", ".kube", ".ssh", ".gnupg", ".config/gcloud", ".AWS"],
)
def test_a_directory_of_secrets_cannot_be_registered_by_itself(store: Store, files: Path, name: str) -> None:
    write(files, {f"{name}/config": "secret\n", f"{name}/below/x": "secret\n"})
    for source in (files / name, files / name / "*", files / name / "below", files / name / "below" / "x"):
        with pytest.raises(SourceRefused, match="its name says that it holds credentials"):
            store.register_source(str(source))
    assert store.register_source(str(files / name), include_secrets=True).files == 2


@pytest.mark.parametrize("name", [".docker/config.json", ".cargo/credentials.toml", ".git/config", ".m2/settings.xml"])
def test_a_secret_keeps_its_name_when_its_directory_is_registered(store: Store, files: Path, name: str) -> None:
    write(files, {name: "secret\n", f"{Path(name).parent}/readme": "x\n"})
    assert paths(store, (files / name).parent) == ["readme"]


@pytest.mark.parametrize(
    "name", [".env.example", "id_rsa.pub", "environment.py", "keys.md", "secrets.py", "history.txt"]
)
def test_what_only_resembles_a_secret_is_kept(store: Store, files: Path, name: str) -> None:
    assert paths(store, write(files, {name: "x\n"})) == [name]


def test_links_are_followed_to_files_but_not_out_nor_in_circles(tmp_path: Path, files: Path) -> None:
    write(files, {"in/a.txt": "a\n"})
    (tmp_path / "outside.txt").write_text("outside\n")
    (files / "link.txt").symlink_to("in/a.txt")
    (files / "out.txt").symlink_to(tmp_path / "outside.txt")
    (files / "up").symlink_to(files)
    (files / "loop").symlink_to("loop")
    with Store(tmp_path / "data", roots=[files]) as store:
        context = store.register_source(str(files))
        assert [entry.path for entry in store.files(context)] == ["in/a.txt", "link.txt"]
        assert {item.path: item.reason.split(":")[0] for item in store.skipped(context)} == {
            "loop": "loop is a loop of symbolic links",
            "out.txt": "link to outside the directories that may be registered",
            "up": "link to a directory",
        }


def test_special_files_in_a_directory_are_skipped_without_waiting_for_them(store: Store, files: Path) -> None:
    os.mkfifo(write(files, {"a.txt": "a\n"}) / "pipe")
    context = store.register_source(str(files))
    assert store.skipped(context) == (Skipped(path="pipe", reason="a FIFO, not a regular file"),)


def test_a_glob_names_files_from_the_part_without_wildcards(store: Store, files: Path) -> None:
    write(files, {"logs/a.log": "a\n", "logs/b/c.log": "c\n", "logs/b/d.txt": "d\n", "logs/.env": "K"})
    assert paths(store, f"{files}/logs/**/*.log") == ["a.log", "b/c.log"]
    assert paths(store, f"{files}/*/a.*") == ["logs/a.log"]
    with pytest.raises(SourceRefused, match=r"nothing matches the pattern .*\*.csv"):
        store.register_source(f"{files}/*.csv")
    with pytest.raises(SourceRefused):
        store.register_source(f"{files}/{'*a' * 500_000}")


def test_a_file_whose_name_has_wildcards_is_that_file(store: Store, files: Path) -> None:
    write(files, {"report[1].txt": "one\n"})
    assert store.register_source(f"{files}/report[1].txt").name == "report[1].txt"


def test_relative_paths_and_file_addresses_are_understood(store: Store, files: Path) -> None:
    write(files, {"a b.txt": "x\n"})
    with contextlib.chdir(files):
        contexts = {store.register_source(source) for source in ("a b.txt", "./a b.txt", (files / "a b.txt").as_uri())}
    assert len(contexts) == 1


def test_a_tilde_is_the_users_home(store: Store, files: Path) -> None:
    write(files, {"a.txt": "x\n"})
    from_home = os.path.relpath(files / "a.txt", Path.home())
    assert store.register_source(f"~/{from_home}") == store.register_source(str(files / "a.txt"))


def test_roots_are_checked_after_links_are_resolved(tmp_path: Path, files: Path) -> None:
    write(tmp_path, {"files/a.txt": "a\n", "elsewhere/b.txt": "b\n"})
    (files / "b.txt").symlink_to(tmp_path / "elsewhere" / "b.txt")
    with Store(tmp_path / "data", roots=[files]) as store:
        assert store.register_source(str(files / "a.txt")).name == "a.txt"
        for source in (
            files / "b.txt",
            tmp_path / "elsewhere",
            f"{files}/../elsewhere/*.txt",
            "/etc/passwd",
            "/no/such",
        ):
            with pytest.raises(
                OutsideRoots, match=r"is outside the directories that may be registered \(.*RLM_MCP_ROOTS"
            ):
                store.register_source(str(source))
    with Store(tmp_path / "data", roots=[]) as store, pytest.raises(OutsideRoots, match="none are configured"):
        store.register_source(str(files / "a.txt"))


def git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    command = [which("git") or "git", "-C", str(directory), *identity, *arguments]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - git, with the arguments of this test


@pytest.fixture
def repository(files: Path) -> Path:
    write(files, {"a.py": "old\n", "sub/b.py": "b\n", ".gitignore": "build/\n*.tmp\n"})
    git(files, "init", "-q", "-b", "main")
    git(files, "add", "-A")
    git(files, "commit", "-q", "-m", "one")
    git(files, "tag", "v1")
    write(files, {"a.py": "new\n", "build/out.txt": "out\n", "x.tmp": "tmp\n", "untracked.py": "u\n"})
    return files


def test_a_repository_is_what_git_tracks_or_would_add(store: Store, repository: Path) -> None:
    context = store.register_source(str(repository))
    assert [entry.path for entry in store.files(context)] == [".gitignore", "a.py", "sub/b.py", "untracked.py"]
    assert store.text(context, "a.py") == "new\n"
    assert paths(store, repository / "sub") == ["b.py"]


def test_an_ignored_directory_can_be_registered_by_itself(store: Store, repository: Path) -> None:
    assert paths(store, repository / "build") == ["out.txt"]


def test_a_revision_is_read_from_the_repository(store: Store, repository: Path) -> None:
    context = store.register_source(f"{repository}@v1")
    assert (context.name, context.source) == ("files@v1", f"{repository}@v1")
    assert [entry.path for entry in store.files(context)] == [".gitignore", "a.py", "sub/b.py"]
    assert store.text(context, "a.py") == "old\n"
    with pytest.raises(SourceRefused, match="has no revision 'v2'"):
        store.register_source(f"{repository}@v2")


def test_what_a_repository_configures_is_not_run(store: Store, repository: Path) -> None:
    trap = repository / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {repository}/sprung\n")
    trap.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(trap))
    assert "a.py" in paths(store, repository)
    assert not (repository / "sprung").exists()


def test_the_store_does_not_register_itself(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "a\n"})
    with Store(tmp_path / "data") as store:
        store.register_text("stored before")
        context = store.register_source(str(tmp_path))
        assert [entry.path for entry in store.files(context)] == ["a.txt"]
        assert store.skipped(context) == (Skipped(path="data/contexts/", reason="the store of contexts itself"),)
        assert paths(store, f"{tmp_path}/**/*.txt") == ["a.txt"]
        with pytest.raises(SourceRefused, match="lies in the store of contexts itself"):
            store.register_source(str(tmp_path / "data" / "contexts" / "blobs"))


def test_a_glob_does_not_walk_through_links_out_of_the_roots(tmp_path: Path, files: Path) -> None:
    write(tmp_path, {"files/in/a.log": "a\n", "outside/b.log": "b\n"})
    (files / "out").symlink_to(tmp_path / "outside")
    with Store(tmp_path / "data", roots=[files]) as store:
        assert paths(store, f"{files}/**/*.log") == ["in/a.log"]
        with pytest.raises(OutsideRoots):
            store.register_source(f"{files}/out/*.log")


def test_a_repository_whose_directory_became_a_link_does_not_lead_outside(tmp_path: Path, repository: Path) -> None:
    write(tmp_path, {"outside/b.py": "outside\n"})
    (repository / "sub").rename(tmp_path / "away")
    (repository / "sub").symlink_to(tmp_path / "outside")
    with Store(tmp_path / "data", roots=[repository]) as store:
        context = store.register_source(str(repository))
        assert "sub/b.py" not in [entry.path for entry in store.files(context)]


def test_a_revision_is_not_read_from_a_repository_outside_the_roots(tmp_path: Path, repository: Path) -> None:
    git(repository, "worktree", "add", "-q", str(tmp_path / "tree"), "v1")
    with (
        Store(tmp_path / "data", roots=[tmp_path / "tree"]) as store,
        pytest.raises(SourceRefused, match="lies outside the directories that may be registered"),
    ):
        store.register_source(f"{tmp_path / 'tree'}@v1")


def borrow(inside: Path, outside: Path) -> None:
    (inside / "objects" / "info").mkdir(exist_ok=True)
    (inside / "objects" / "info" / "alternates").write_text(f"{outside}/objects\n")


def borrow_in_two_steps(inside: Path, outside: Path) -> None:
    between = inside.parent / "between"
    (between / "info").mkdir(parents=True)
    (between / "info" / "alternates").write_text(f"{outside}/objects\n")
    (inside / "objects" / "info" / "alternates").write_text("../../between\n")


def borrow_by_a_quoted_path(inside: Path, outside: Path) -> None:
    (inside / "objects" / "info" / "alternates").write_text(f'"{outside}/objects"\n')


def link_objects(inside: Path, outside: Path) -> None:
    shutil.rmtree(inside / "objects")
    (inside / "objects").symlink_to(outside / "objects")


def link_refs(inside: Path, outside: Path) -> None:
    link_objects(inside, outside)
    shutil.rmtree(inside / "refs")
    (inside / "refs").symlink_to(outside / "refs")


def link_packs(inside: Path, outside: Path) -> None:
    git(outside.parent, "gc", "-q")
    for pack in (outside / "objects" / "pack").iterdir():
        (inside / "objects" / "pack" / pack.name).symlink_to(pack)


def link_loose_objects(inside: Path, outside: Path) -> None:
    for path in (outside / "objects").glob("??/*"):
        target = inside / "objects" / path.relative_to(outside / "objects")
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            target.symlink_to(path)


def link_the_whole(inside: Path, outside: Path) -> None:
    shutil.rmtree(inside)
    inside.symlink_to(outside)


def point_elsewhere(inside: Path, outside: Path) -> None:
    shutil.rmtree(inside)
    inside.write_text(f"gitdir: {outside}\n")


def share_elsewhere(inside: Path, outside: Path) -> None:
    (inside / "commondir").write_text(f"{outside}\n")


@pytest.mark.parametrize(
    "trick",
    [
        borrow,
        borrow_in_two_steps,
        borrow_by_a_quoted_path,
        link_objects,
        link_refs,
        link_packs,
        link_loose_objects,
        link_the_whole,
        point_elsewhere,
        share_elsewhere,
    ],
)
def test_no_revision_is_read_through_a_repository_that_leads_outside(
    tmp_path: Path, repository: Path, trick: Callable[[Path, Path], None]
) -> None:
    outside = write(tmp_path / "outside", {"secret.txt": "OUTSIDE\n"})
    git(outside, "init", "-q", "-b", "main")
    git(outside, "add", "-A")
    git(outside, "commit", "-q", "-m", "one")
    git(outside, "update-ref", "refs/heads/x", "HEAD")
    head = (outside / ".git" / "refs" / "heads" / "main").read_text().strip()
    trick(repository / ".git", outside / ".git")
    with Store(tmp_path / "data", roots=[repository]) as store:
        for revision in (head, "main", "x"):
            with pytest.raises(SourceRefused, match=r"outside the directories that may be registered|does not exist"):
                store.register_source(f"{repository}@{revision}")
        context = store.register_source(str(repository))
        assert "secret.txt" not in str(store.skipped(context))
    with Store(tmp_path / "data2") as store:  # whoever may read everything
        if trick not in (link_packs, link_the_whole, point_elsewhere, share_elsewhere):
            assert paths(store, f"{repository}@{head}")


def test_a_work_tree_configured_to_be_elsewhere_is_not_listed(tmp_path: Path, repository: Path) -> None:
    outside = write(tmp_path / "outside", {"secret.txt": "OUTSIDE\n"})
    git(repository, "config", "core.worktree", str(outside))
    with Store(tmp_path / "data", roots=[repository]) as store:
        context = store.register_source(str(repository))
        assert "secret.txt" not in str(store.skipped(context)) + str(store.files(context))


def test_borrowed_objects_inside_the_roots_are_read(tmp_path: Path, repository: Path) -> None:
    git(tmp_path, "clone", "-q", "--shared", str(repository), str(tmp_path / "clone"))
    with Store(tmp_path / "data", roots=[repository, tmp_path / "clone"]) as store:
        assert paths(store, f"{tmp_path / 'clone'}@v1") == [".gitignore", "a.py", "sub/b.py"]


def test_a_repository_that_lacks_objects_fetches_none(tmp_path: Path, store: Store, repository: Path) -> None:
    git(repository, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=blob:none", "--no-checkout", repository.as_uri(), str(tmp_path / "partial"))
    trap = tmp_path / "trap.sh"
    trap.write_text(f'#!/bin/sh\ntouch {tmp_path}/sprung\nexec git-upload-pack "$@"\n')
    trap.chmod(0o755)
    git(tmp_path / "partial", "config", "remote.origin.uploadpack", str(trap))
    with pytest.raises(
        SourceRefused,
        match=r"lacks all 3 files of v1, as a partial clone does: fetch it in full \(`git fetch --refetch",
    ):
        store.register_source(f"{tmp_path / 'partial'}@v1")
    assert not (tmp_path / "sprung").exists()


def test_files_that_a_partial_clone_lacks_are_named(tmp_path: Path, store: Store, repository: Path) -> None:
    git(repository, "commit", "-q", "-a", "-m", "two")
    git(repository, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=blob:none", repository.as_uri(), str(tmp_path / "partial"))
    context = store.register_source(f"{tmp_path / 'partial'}@v1")
    assert [entry.path for entry in store.files(context)] == [".gitignore", "sub/b.py"]
    assert store.skipped(context) == (
        Skipped(path="a.py", reason="not in this partial clone: fetch it in full (`git fetch --refetch --no-filter`)"),
    )


def test_a_clone_without_directories_cannot_be_listed(tmp_path: Path, store: Store, repository: Path) -> None:
    git(repository, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=tree:0", "--no-checkout", repository.as_uri(), str(tmp_path / "partial"))
    with pytest.raises(SourceRefused, match=r"git cannot list .* at v1: fetch it in full"):
        store.register_source(f"{tmp_path / 'partial'}@v1")


def test_a_bare_repository_is_read_at_a_revision_only(tmp_path: Path, store: Store, repository: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(repository), str(tmp_path / "bare.git"))
    with pytest.raises(SourceRefused, match=r"is a bare git repository, without a work tree: name a revision, such as"):
        store.register_source(str(tmp_path / "bare.git"))
    assert paths(store, f"{tmp_path / 'bare.git'}@v1") == [".gitignore", "a.py", "sub/b.py"]


def test_a_shallow_clone_says_that_it_lacks_a_revision(tmp_path: Path, store: Store, repository: Path) -> None:
    git(repository, "commit", "-q", "-a", "-m", "two")
    git(tmp_path, "clone", "-q", "--depth=1", repository.as_uri(), str(tmp_path / "shallow"))
    with pytest.raises(SourceRefused, match=r"is a shallow clone without 'v1': run `git fetch --unshallow`"):
        store.register_source(f"{tmp_path / 'shallow'}@v1")


def test_a_sparse_checkout_says_how_many_files_it_leaves_out(tmp_path: Path, store: Store, repository: Path) -> None:
    git(tmp_path, "clone", "-q", "--sparse", str(repository), str(tmp_path / "sparse"))
    context = store.register_source(str(tmp_path / "sparse"))
    assert [entry.path for entry in store.files(context)] == [".gitignore", "a.py"]
    assert store.skipped(context) == ()
    assert context.notes == (f"a sparse checkout leaves out 1 tracked file: {tmp_path / 'sparse'}@HEAD has them",)


def test_a_submodule_that_is_not_checked_out_says_so(tmp_path: Path, store: Store, repository: Path) -> None:
    git(tmp_path, "clone", "-q", str(repository), str(tmp_path / "inner"))
    allow = ("-c", "protocol.file.allow=always")
    git(repository, *allow, "submodule", "--quiet", "add", str(tmp_path / "inner"), "inner")
    git(repository, "commit", "-q", "-m", "two")
    git(tmp_path, "clone", "-q", str(repository), str(tmp_path / "clone"))
    reasons = [store.skipped(store.register_source(str(path)))[0].reason for path in (repository, tmp_path / "clone")]
    assert reasons == [
        "submodule: register it by itself",
        "submodule that is not checked out: run `git submodule update --init`, then register it by itself",
    ]


def test_a_second_work_tree_is_read_like_the_first(tmp_path: Path, store: Store, repository: Path) -> None:
    git(repository, "worktree", "add", "-q", str(tmp_path / "second"), "v1")
    assert paths(store, str(tmp_path / "second")) == [".gitignore", "a.py", "sub/b.py"]
    assert paths(store, f"{tmp_path / 'second'}@v1") == [".gitignore", "a.py", "sub/b.py"]


def test_pointers_to_large_files_are_not_taken_for_the_files(store: Store, files: Path) -> None:
    write(
        files,
        {
            "a.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
            "b.txt": "version https://git-lfs.github.com/spec/v1\nis what such a file begins with\n" * 20,
            "c.bin": "/annex/objects/SHA256E-s1--00\n",
        },
    )
    context = store.register_source(str(files))
    assert [entry.path for entry in store.files(context)] == ["b.txt"]
    assert [item.reason.removeprefix(f"{files}/") for item in store.skipped(context)] == [
        "a.bin is a pointer of Git LFS to 12,345 bytes, not the file itself: fetch that and register again",
        "c.bin is a pointer of git-annex, not the file itself: fetch that and register again",
    ]


def test_a_repository_that_git_does_not_read_says_that_nothing_is_ignored(store: Store, files: Path) -> None:
    write(files, {"a.py": "a\n", ".git": "gitdir: /no/such/repository\n"})
    context = store.register_source(str(files))
    assert [note.startswith("git does not read this repository") for note in context.notes] == [True]


def test_compressed_files_of_a_revision_are_unpacked(store: Store, repository: Path) -> None:
    (repository / "a.log.gz").write_bytes(gzip.compress(b"ERROR 42\n"))
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "two")
    assert store.text(store.register_source(f"{repository}@HEAD"), "a.log.gz") == "ERROR 42\n"


def test_a_blank_that_breaks_no_line_stays_in_the_name_of_a_file(store: Store, files: Path) -> None:
    name = "shot at 3.04\u202fPM\u00a0.txt"
    (files / name).write_text("x\n")
    assert [entry.path for entry in store.files(store.register_source(str(files)))] == [name]
