from pathlib import Path

import pytest

from rlm_mcp.contexts.sources.webpage import visible_text
from rlm_mcp.contexts.store.store import Store


def registered(store: Store, path: Path) -> str:
    return store.text(store.register_source(str(path)))


def test_a_web_page_is_its_text(store: Store, files: Path) -> None:
    page = "<title>T</title><script>no</script><h2>Head</h2><p>some <b>bold</b> text<ul><li>one<li>two</ul>end"
    (files / "a.html").write_text(page)
    assert registered(store, files / "a.html") == "T\n\n## Head\n\nsome bold text\n\n- one\n- two\n\nend\n\n"


PAGES = {
    "deep": "<div>" * 100_000 + "x" + "</div>" * 100_000,
    "wide": "<p>x" * 100_000,
    "sections of characters": "x" + "<![CDATA[" * 100_000,
    "comments": "x" + "<!--" * 100_000,
    "an open quotation mark": "x" + "<a b='" * 100_000,
    "ends without beginnings": "x" + "</b>" * 100_000,
    "a number of many digits": "x &#" + "1" * 100_000,
}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_a_page_is_read_whatever_it_nests_or_leaves_open(store: Store, files: Path, page: str) -> None:
    (files / "a.html").write_text(page)
    assert "x" in registered(store, files / "a.html")


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "shift_jis", ""])
def test_a_page_is_in_the_character_set_that_it_names(store: Store, files: Path, charset: str) -> None:
    text = "日本" if charset == "shift_jis" else "Grüße"
    (files / "a.html").write_bytes(f"<meta charset='{charset}'><p>{text}".encode(charset or "utf-8"))
    assert registered(store, files / "a.html") == f"\n{text}\n\n".lstrip("\n")


SHOWN = {
    "preformatted": ("<pre>\ndef f(x):\n    return x\n\n\n# end</pre>", "def f(x):\n    return x\n\n\n# end"),
    "preformatted by style": ("<div style='white-space: pre-wrap'>a\n  b</div>", "a\n  b"),
    "summary": ("<details><summary>More</summary>inside</details>", "More\ninside"),
    "blanks": ("<p>a\n  b<b> c</b>d <i> e</i></p>", "a b cd e"),
    "line breaks": ("a<br>b<br><br>c</br>d", "a\nb\n\nc\nd"),
    "paragraphs": ("<p>a<p>b<div>c</div><div>d</div>", "a\n\nb\n\nc\nd"),
    "list of lists": ("<ul><li>a<ol start=3><li>b<li><p>c</ol><li>d</ul>", "- a\n  3. b\n  4. c\n- d"),
    "table": ("<table><tr><th>A<th>B<tr><td><p>1</p><p>2</p><td>3<tr><td><td>4</table>", "A\tB\n1 2\t3\n\t4"),
    "spans": (
        "<table><tr><td rowspan=2>a<td colspan=2>b<td>c<tr><td>d<td>e<td>f</table>",
        "a\tb\t\tc\n\td\te\tf",
    ),
    "table that arranges a page": (
        "<table><tr><td><ul><li>a<li>b</ul><td><h2>t</h2><p>c</table>d",
        "- a\n- b\n\n## t\n\nc\n\nd",
    ),
    "entities": ("&lt;a&gt; &amp;amp; &#8364;&euro;&nbsp;1&shy;2 &xyz;", "<a> &amp; €€ 12 &xyz;"),
    "images": ("<img alt='A cat'><img alt=''><map><area alt=x></map>", "[image: A cat][image: x]"),
    "no scripts": ("<noscript>shown</noscript><template>t</template><script>'<p>'</script>", "shown"),
    "hidden": ("a<div hidden>b</div><i style='display: none'>c</i><p hidden>d<p>e", "a\n\ne"),
    "drawing": ("<svg><title>T</title><text>a</text><text>b</text></svg>", "T\n\na\nb"),
    "form": (
        (
            "<textarea>\n a\n  b</textarea><button>Save</button><button>No</button>"
            "<input type=checkbox checked>x <input value=v><select><option>1<option>2</select>"
        ),
        " a\n  b Save No [x] x v\n1\n2",
    ),
    "meta": ("<title>T\n t</title><meta name=Description content='a &amp; b'><p>c", "T t\n\n[description: a & b]\n\nc"),
    "powers": ("10<sup>6</sup> m<sup>2</sup> 1<sup>st</sup> H<sub>2</sub>O", "10^6 m^2 1st H2O"),
    "struck out": (
        "<s>100</s> 80 <q>hi</q> <ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby>",
        "~~100~~ 80 “hi” 漢(kan)",
    ),
    "end of something around a cell": ("<b><table><tr><td>a</b>b<td>c</table>", "ab\tc"),
    "no markup": ("a < b <3 c", "a < b <3 c"),
}


@pytest.mark.parametrize(("page", "shown"), SHOWN.values(), ids=SHOWN)
def test_a_page_is_read_as_it_is_shown(page: str, shown: str) -> None:
    assert visible_text(page) == shown


def test_what_is_not_shown_of_a_page_is_counted(store: Store, files: Path) -> None:
    page = (
        "<!-- c --><style>s</style><script>x</script><p hidden>h</p><template>t</template><iframe src=f></iframe>"
        "<img src=i><a href=u>link</a><script>y</script>"
    )
    (files / "a.html").write_text(page)
    assert registered(store, files / "a.html") == "link\n\n"
    assert store.get("a.html").notes == (
        (
            "a.html: left out: comments (1), style sheets (1), scripts (2), hidden elements (1), templates (1), "
            "frames (1), images without alternative text (1), addresses of links (1)"
        ),
    )


def test_a_page_that_is_not_in_the_character_set_that_it_names_says_so(store: Store, files: Path) -> None:
    (files / "a.html").write_bytes("<meta charset=iso-8859-1><p>Grüße".encode())
    assert registered(store, files / "a.html") == "Grüße\n\n"
    assert store.get("a.html").notes == ("a.html: it is not cp1252 as it says: read as utf-8",)
    (files / "b.html").write_bytes(
        "<meta charset=gb2312><p>中文测试中文测试中文测试中文测试中文测试".encode("gb18030") + b"\xff<p>a"
    )
    assert registered(store, files / "b.html").startswith("中文测试")
    assert store.get("b.html").notes == ("b.html: 1 characters that are not gb18030 were replaced by U+FFFD",)
