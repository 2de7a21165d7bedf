"""The encoding of what is registered: detected and told, or named by the user."""

from pathlib import Path

import pytest

from rlm_mcp.contexts.search import search
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import SourceRefused

FINNISH = "2024-05-01 10:11:12 INFO palvelu käynnistyi, yhteyttä ei vielä löytynyt\n"
JAPANESE = "2024-05-01 接続が切断されました。再試行します。\n"


def test_the_notes_say_which_encoding_a_file_had_and_how_sure_that_is(tmp_path: Path, files: Path) -> None:
    (files / "bom.txt").write_bytes("é\n".encode("utf-8-sig"))
    (files / "few.txt").write_bytes("café\n".encode("cp1252"))
    (files / "fi.log").write_bytes((FINNISH * 400).encode("latin-1"))
    (files / "plain.txt").write_text("é\n", encoding="utf-8")
    with Store(tmp_path / "data") as store:
        context = store.register_source(str(files))
        assert context.notes == (
            "bom.txt was utf-8 with a byte order mark, stored as UTF-8",
            (
                "few.txt was read as cp1252, which is a guess, and stored as UTF-8: "
                "if letters are wrong, register it again and name its `encoding`"
            ),
            "fi.log was cp1252 (detected, most likely right), stored as UTF-8",
        )
        assert search(store, context, "käynnistyi", path="fi.log").total == 400


def test_a_named_encoding_is_used_and_kept_when_the_source_is_refreshed(tmp_path: Path, files: Path) -> None:
    path = files / "a.txt"
    path.write_bytes("ąę źle\n".encode("iso8859-2"))
    with Store(tmp_path / "data") as store:
        context = store.register_source(str(path), encoding="latin2")
        assert (store.text(context), context.notes) == ("ąę źle\n", ("a.txt was iso8859-2, stored as UTF-8",))
        path.write_bytes("ąę źle źle\n".encode("iso8859-2"))
        assert store.text(store.refresh("a.txt")) == "ąę źle źle\n"


def test_a_byte_order_mark_outweighs_the_named_encoding(tmp_path: Path, files: Path) -> None:
    (files / "a.txt").write_bytes("é\n".encode("utf-16"))
    with Store(tmp_path / "data") as store:
        assert store.text(store.register_source(str(files / "a.txt"), encoding="cp1251")) == "é\n"


def test_a_large_file_in_a_named_encoding_is_copied_and_not_referenced(tmp_path: Path, files: Path) -> None:
    (files / "a.txt").write_bytes((JAPANESE * 3).encode("cp932"))
    with Store(tmp_path / "data", reference_above_bytes=10) as store:
        context = store.register_source(str(files / "a.txt"), encoding="cp932")
        assert (store.text(context), context.exact) == (JAPANESE * 3, True)


def test_a_converted_page_is_not_decoded_again_with_the_named_encoding(tmp_path: Path, files: Path) -> None:
    (files / "a.html").write_text("<p>é</p>", encoding="utf-8")
    with Store(tmp_path / "data") as store:
        assert "é" in store.text(store.register_source(str(files / "a.html"), encoding="cp932"))


def test_an_unknown_encoding_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with Store(tmp_path / "data") as store, pytest.raises(SourceRefused, match="'klingon' is not an encoding of text"):
        store.register_source("nothing.txt", encoding="klingon")
