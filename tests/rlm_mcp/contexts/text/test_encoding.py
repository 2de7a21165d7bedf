import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_mcp.contexts.text.encoding import (
    SAMPLE_BYTES,
    UTF8,
    Encoding,
    Utf8Stream,
    detect,
    encode_text,
    named_encoding,
)
from rlm_mcp.errors import SourceRefused

FRENCH = "Le café est fermé à cause de la grève générale.\nIl a été décidé d'être prêt.\n"
RUSSIAN = "Съешь ещё этих мягких французских булок, да выпей чаю.\n" * 2
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n" * 2

EAST_ASIAN = {
    "euc_jp": "2024-05-01 接続が切断されました。再試行します。サーバー応答なし\n",
    "cp932": "2024-05-01 接続が切断されました。再試行します。サーバー応答なし\n",
    "gb18030": "2024-05-01 连接已断开，正在重试，请稍候。服务器没有响应\n",
    "big5": "2024-05-01 連線已中斷，正在重試，請稍候。伺服器沒有回應\n",
    "cp949": "2024-05-01 연결이 끊어졌습니다. 다시 시도합니다. 서버 응답 없음\n",
}
LANGUAGES = {
    "cp1252": (
        "Alle mense word vry, met gelyke waardigheid en regte, gebore. Hulle het rede en gewete, sê môre.\n",
        "Tots els éssers humans neixen lliures i iguals en dignitat i en drets. Són dotats de raó i consciència.\n",
        "Alle mennesker er født frie og lige i værdighed og rettigheder. De er udstyret med fornuft og samvittighed.\n",
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sollen einander im Geiste begegnen.\n",
        "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón.\n",
        "Gizon-emakume guztiak aske jaiotzen dira, eta señaleak, garçonak eta pingüinoak ere bai, duintasunez.\n",
        "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Heille on annettu järki.\n",
        "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison.\n",
        "Saolaítear na daoine uile saor agus comhionann ina ndínit agus ina gcearta. Tá bua an réasúin acu.\n",
        "Todos os seres humanos nacen libres e iguais en dignidade e dereitos e, dotados como están de razón.\n",
        "Hver maður er borinn frjáls og jafn öðrum að virðingu og réttindum. Menn eru gæddir vitsmunum.\n",
        "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. È così che sarà, perché no.\n",
        "Alle mennesker er født frie og med samme menneskeverd og rettigheter. De er utstyrt med fornuft så.\n",
        "Alle mensen worden vrij en met gelijke rechten geboren. Zij zijn begiftigd, één voor één, met ideeën.\n",
        "Totes los èssers umans naisson liures e egals en dignitat e en dreches, amb consciéncia.\n",
        "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão e consciência.\n",
        "Të gjithë njerëzit lindin të lirë dhe të barabartë në dinjitet dhe në të drejta. Ata kanë arsye.\n",
        "Alla människor är födda fria och lika i värde och rättigheter. De är utrustade med förnuft och samvete.\n",
    ),
    "cp1250": (
        "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv. Jsou nadáni rozumem a svědomím.\n",
        "Sva ljudska bića rađaju se slobodna i jednaka u dostojanstvu i pravima. Ona su obdarena razumom i sviješću.\n",
        "Minden emberi lény szabadon születik és egyenlő méltósága és joga van. Az emberek ésszel bírnak.\n",
        "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem.\n",
        "Všetci ľudia sa rodia slobodní a sebe rovní, čo sa týka ich dôstojnosti a práv. Sú obdarení rozumom.\n",
        "Vsi ljudje se rodijo svobodni in imajo enako dostojanstvo in enake pravice. Obdarjeni so z razumom, žal še.\n",
    ),
    "cp1257": (
        "Kõik inimesed sünnivad vabadena ja võrdsetena oma väärikuselt ja õigustelt. Neile on antud mõistus.\n",
        "Visi žmonės gimsta laisvi ir lygūs savo orumu ir teisėmis. Jiems suteiktas protas ir sąžinė.\n",
        "Visi cilvēki piedzimst brīvi un vienlīdzīgi savā pašcieņā un tiesībās. Viņi ir apveltīti ar saprātu.\n",
    ),
    "cp1254": ("Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler.\n",),
    "cp1253": ("Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.\n",),
    "cp1255": ("כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון.\n",),
    "cp1256": ("يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا.\n",),
    "cp874": ("มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ\n",),
    "koi8-r": (RUSSIAN,),
    "cp866": (RUSSIAN,),
    "iso8859-5": (RUSSIAN,),
    "iso8859-2": ("Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw, którzy są źli.\n",),
    "iso8859-15": ("Tous les hommes qui œuvrent naissent égaux en dignité. Le nœud, le cœur, à 5 € l'unité.\n",),
}


def converted(data: bytes, *, pieces: int = 7) -> tuple[str, int]:
    encoding = detect(data[:SAMPLE_BYTES])
    assert encoding is not None
    stream = Utf8Stream(encoding)
    text = b"".join(stream.convert(data[at : at + pieces] for at in range(0, len(data), pieces)))
    return text.decode(), stream.invalid_bytes


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        (FRENCH, "latin-1"),
        (FRENCH, "utf-8-sig"),
        (FRENCH, "utf-16"),
        (FRENCH, "utf-32"),
        ("plain words\n" * 4, "utf-16-le"),
        ("plain words\n" * 4, "utf-16-be"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "utf-8"),
    ],
)
def test_text_in_any_encoding_becomes_utf8(text: str, codec: str) -> None:
    assert converted(text.encode(codec)) == (text, 0)


def test_a_byte_order_mark_is_noticed() -> None:
    assert detect("x\n".encode("utf-8-sig")) == Encoding(codec="utf-8", bom_bytes=3)
    assert detect("x\n".encode("utf-16")) == Encoding(codec="utf-16-le", bom_bytes=2)


def test_line_ends_and_nuls_are_kept() -> None:
    data = b"a\r\nb\rc\n" + b"text " * 40 + b"\0\n"
    assert converted(data) == (data.decode(), 0)


def test_invalid_bytes_are_replaced_and_counted() -> None:
    assert converted(b"ok\nbad \xff\xfe byte\n") == ("ok\nbad \ufffd\ufffd byte\n", 2)


def test_a_replacement_character_that_was_there_is_not_counted() -> None:
    assert converted("é\ufffdé".encode() + b"\xff") == ("é\ufffdé\ufffd", 1)


@pytest.mark.parametrize(
    "data", [bytes(range(256)) * 4, b"\x7fELF\x02\x01\x01" + b"\0" * 60, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0"]
)
def test_binary_is_told_from_text(data: bytes) -> None:
    assert detect(data) is None


@given(st.text(), st.integers(1, 9))
def test_utf8_passes_through_unchanged_whatever_the_pieces(text: str, pieces: int) -> None:
    data = text.encode()
    stream = Utf8Stream(UTF8)
    assert b"".join(stream.convert(data[at : at + pieces] for at in range(0, len(data), pieces))) == data
    assert stream.invalid_bytes == 0


@given(st.binary(max_size=60), st.integers(1, 9))
def test_any_bytes_become_what_python_makes_of_them(data: bytes, pieces: int) -> None:
    stream = Utf8Stream(UTF8)
    text = b"".join(stream.convert(data[at : at + pieces] for at in range(0, len(data), pieces))).decode()
    assert text == data.decode(stream.codec, errors="replace")


def test_a_file_that_shows_late_that_it_is_not_utf8_is_still_understood() -> None:
    data = b"plain line\n" * 20_000 + FRENCH.encode("latin-1")
    assert converted(data, pieces=65_536) == (data.decode("latin-1"), 0)


def test_late_bytes_that_make_no_words_are_replaced() -> None:
    data = b"plain line\n" * 20_000 + b"\xff\xfe\n" + "é\n".encode()
    assert converted(data, pieces=65_536) == (data.decode(errors="replace"), 2)


@given(st.text(st.characters()))
def test_lone_surrogates_are_mended_and_everything_else_is_kept(text: str) -> None:
    data, lone = encode_text(text)
    assert data.decode() == "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    assert lone == sum("\ud800" <= char <= "\udfff" for char in text)


@pytest.mark.parametrize(("codec", "text"), [(codec, text) for codec, texts in LANGUAGES.items() for text in texts])
def test_one_sentence_is_read_back_in_the_encoding_of_its_language(codec: str, text: str) -> None:
    assert converted(text.encode(codec)) == (text, 0)


@pytest.mark.parametrize("codec", EAST_ASIAN)
@pytest.mark.parametrize("shift", range(2))
@pytest.mark.parametrize("end", ["\n", " "])
def test_a_sample_that_ends_inside_a_character_is_recognised(codec: str, shift: int, end: str) -> None:
    text = "x" * shift + EAST_ASIAN[codec].replace("\n", end) * 5_000
    data = text.encode(codec)
    assert len(data) > SAMPLE_BYTES
    assert converted(data, pieces=65_537) == (text, 0)


@pytest.mark.parametrize("codec", EAST_ASIAN)
def test_an_invalid_byte_does_not_hide_an_east_asian_encoding(codec: str) -> None:
    line = EAST_ASIAN[codec]
    data = (line * 5).encode(codec) + b"torn \xff byte\n" + (line * 5).encode(codec)
    text, _ = converted(data)
    assert text.startswith(line * 5)
    assert text.endswith(line * 4)


def test_a_western_text_with_symbols_only_loses_nothing() -> None:
    text = "20 °C, § 5, 3 € à la carte, « non »\n"
    assert converted(text.encode("cp1252")) == (text, 0)


@pytest.mark.parametrize("before", [0, 40_000])
def test_iso_2022_is_recognised_although_its_bytes_are_ascii(before: int) -> None:
    text = "plain line\n" * before + JAPANESE
    assert converted(text.encode("iso2022_jp"), pieces=65_536) == (text, 0)


def test_colours_of_a_terminal_are_no_encoding() -> None:
    assert detect(b"\x1b[31mERROR\x1b[0m x\n") == UTF8


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", [FRENCH, RUSSIAN, JAPANESE, *EAST_ASIAN.values(), *LANGUAGES["cp1253"]])
def test_unicode_without_a_mark_is_recognised_in_any_script(codec: str, text: str) -> None:
    assert converted(text.encode(codec)) == (text, 0)


def test_how_sure_an_encoding_is_is_told() -> None:
    assert detect((JAPANESE * 3).encode("euc_jp")) == Encoding(codec="euc_jp", certainty="likely")
    assert detect("caf\u00e9\n".encode("cp1252")) == Encoding(codec="cp1252", certainty="guessed")


def test_an_encoding_is_named_as_python_names_it() -> None:
    assert named_encoding("Shift_JIS") == Encoding(codec="shift_jis")
    assert named_encoding("windows-1251") == Encoding(codec="cp1251")


@pytest.mark.parametrize("name", ["klingon", "rot13", "base64", "idna", "", "unicode_escape", "a\0b"])
def test_what_is_no_encoding_of_text_is_refused(name: str) -> None:
    with pytest.raises(SourceRefused, match="is not an encoding of text"):
        named_encoding(name)
