"""The context as code sees it: texts that record what is read of them, and files that are loaded on use.

Runs inside the sandbox. A text that fits is a real `str`, so that every library accepts it; the subclass only records
reads. A longer one is a `BigText`: it acts like a str for what scales (len, slices, `in`, find, count, lines) and asks
the host for characters by position. Offsets are characters, from 0.
"""

import io
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import host

MAX_STR_BYTES = 64 << 20
"""A text up to this size becomes a str: even with the copies that code makes of it, it stays well below 512 MiB."""

MAX_WIDE_CHARS = 16 << 20
"""The limit for a text with characters beyond ASCII, which may take four bytes each."""

CHUNK_CHARS = 4 << 20

reads: list[tuple[str, str, int, int]] = []
"""(context, path, start, end) of all reads since the cell began"""


def note(context: str, path: str, start: int, end: int) -> None:
    """Records one read; consecutive reads become one entry."""
    if end <= start:
        return
    if reads:
        last_context, last_path, last_start, last_end = reads[-1]
        if (last_context, last_path) == (context, path) and last_start <= start <= last_end:
            reads[-1] = (context, path, last_start, max(end, last_end))
            return
    if len(reads) < 10_000:
        reads.append((context, path, start, end))


class Origin:
    """The file of a context that a text comes from. Until it is `exact`, `chars` and `lines` are estimates."""

    __slots__ = ("bytes", "chars", "context", "exact", "guest", "lines", "path")

    def __init__(self, context, path, guest, bytes, chars, lines, exact=True):  # noqa: FBT002 - one of many facts
        self.context, self.path, self.guest = context, path, guest
        self.bytes, self.chars, self.lines, self.exact = bytes, chars, lines, exact

    def count(self):
        """Makes the sizes exact, for which the host may have to read the text."""
        if not self.exact:
            sizes = host.call("measure_text", self.context, self.path)
            self.chars, self.lines, self.exact = sizes["chars"], sizes["lines"], True

    def note(self, start=0, end=None):
        # The host knows where a text ends; this is not before that.
        whole = self.chars if self.exact else self.bytes
        note(self.context, self.path, start, whole if end is None else end)

    def open(self, newline="\n"):
        """The text as a file; reading from it counts as reading all of it."""
        self.note()
        return REAL_OPEN(self.guest, encoding="utf-8", errors="surrogateescape", newline=newline)


REAL_OPEN = io.open


def load(origin):
    """The text: a str if it fits, else an object that acts like one."""
    if origin.bytes > MAX_WIDE_CHARS:
        origin.count()
    limit = MAX_STR_BYTES if origin.bytes == origin.chars else MAX_WIDE_CHARS
    if origin.chars > limit:
        return BigText(origin)
    try:
        with REAL_OPEN(origin.guest, encoding="utf-8", errors="surrogateescape", newline="") as file:
            text = Text(file.read())
    except OSError as error:
        raise OSError(_reason(origin) or str(error)) from None
    if not origin.exact:
        origin.chars = len(text)
    text.origin = origin
    return text


def _reason(origin):
    """Why a text cannot be read, which the host says when it is asked for it; empty if it does not know."""
    try:
        host.call("read_chars", origin.context, origin.path, 0, 1)
    except Exception as error:  # whatever the host answers with is the reason
        return str(error)
    return ""


def split_lines(text, keepends=False):  # noqa: FBT002 - the signature of str.splitlines
    """The lines of a text, which end with \\n only: at other characters, line numbers would differ from the host's."""
    if keepends:
        return list(io.StringIO(text, newline="\n"))
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


class Lined(str):
    """A str, such as a part of the context, whose lines are those of the context."""

    __slots__ = ()

    def splitlines(self, keepends=False):  # noqa: FBT002 - the signature of str
        return split_lines(str.__str__(self), keepends)

    def __getitem__(self, key):
        found = str.__getitem__(self, key)
        return Lined(found) if isinstance(key, slice) else found

    def __str__(self):
        return self

    def __reduce__(self):
        return (str, (str.__str__(self),))

    def __deepcopy__(self, memo):
        return self

    def __copy__(self):
        return self


Lined.__name__ = Lined.__qualname__ = "str"
"""The name that code sees, and that a list of variables shows."""


class Text(Lined):
    """A str that knows its file in a context and records reads."""

    __slots__ = ("origin",)

    def __getitem__(self, key):
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            self.origin.note(*((start, stop) if step > 0 else (stop + 1, start + 1)))
        else:
            index = key.__index__()
            self.origin.note(index % len(self) if len(self) else 0, (index % len(self) if len(self) else 0) + 1)
        return Lined.__getitem__(self, key)


def _noticing(name):
    method = getattr(Lined, name)

    def noticed(self, *args, **kwargs):
        self.origin.note()
        found = method(self, *args, **kwargs)
        return Lined(found) if type(found) is str else found

    noticed.__name__ = name
    return noticed


WHOLE = (
    "__contains__ __iter__ casefold count encode endswith expandtabs find format index isascii join lower partition "
    "replace rfind rindex rpartition rsplit split splitlines startswith strip lstrip rstrip swapcase title translate "
    "upper"
)
for _name in WHOLE.split():
    setattr(Text, _name, _noticing(_name))


class Lines(Sequence):
    """The lines of a long text, read when they are accessed: what splitlines() or split("\\n") gives for a str."""

    def __init__(self, origin, *, splits=False, keepends=False):
        self._origin = origin
        self._splits = splits
        self._keepends = keepends

    def __len__(self):
        return self._origin.lines + (1 if self._splits and self._ends_with_line_end() else 0)

    def _ends_with_line_end(self):
        last = self._origin.chars
        return not last or host.call("read_chars", self._origin.context, self._origin.path, last - 1, last) == "\n"

    def __iter__(self) -> Iterator[str]:
        line = "\n"
        with self._origin.open() as file:
            for line in file:
                yield self._without_end(line)
        if self._splits and line.endswith("\n"):
            yield ""

    def _without_end(self, line):
        if self._keepends or not line.endswith("\n"):
            return line
        return line[:-1] if self._splits else line[:-1].removesuffix("\r")

    def __getitem__(self, key):
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self._between(start, stop)
            return [self[i] for i in range(start, stop, step)]
        index = key if key >= 0 else key + len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"line {key} of {len(self)}")
        return self._between(index, index + 1)[0]

    def _between(self, start, stop):
        lines = []
        stored = min(stop, self._origin.lines)
        while start < stored:
            part = host.call("read_lines", self._origin.context, self._origin.path, start + 1, stored)
            text, end = self._whole_line(part["text"], part["end"])
            lines += map(self._without_end, io.StringIO(text, newline="\n"))
            note(self._origin.context, self._origin.path, part["start"], end)
            start = part["last"]
        return lines + [""] * (stop - max(start, stored))

    def _whole_line(self, text, end):
        """The text up to the end of its last line, which the host cuts if it is very long."""
        parts = [text]
        while not parts[-1].endswith("\n") and end < self._origin.chars:
            stop = min(end + CHUNK_CHARS, self._origin.chars)
            more, line_end, _ = host.call("read_chars", self._origin.context, self._origin.path, end, stop).partition(
                "\n"
            )
            parts.append(more + line_end)
            end += len(parts[-1])
        return "".join(parts), end

    def __repr__(self):
        return f"<{len(self)} lines of {self._origin.path}>"


class BigText:
    """A text too long to be a str here. Slice it, iterate over its lines, or use search(pattern)."""

    def __init__(self, origin):
        self.origin = origin

    def __len__(self):
        return self.origin.chars

    def __repr__(self):
        size = f"{len(self)} characters of {self.origin.path}"
        return f"<{size}: slice it, iterate over its lines, or use search(pattern)>"

    def __str__(self):
        if len(self) > MAX_WIDE_CHARS:
            raise MemoryError(f"{self!r} does not fit into a str")
        return self[:]

    def __getitem__(self, key):
        if not isinstance(key, slice):
            index = key if key >= 0 else key + len(self)
            if not 0 <= index < len(self):
                raise IndexError("string index out of range")
            return self._between(index, index + 1)
        start, stop, step = key.indices(len(self))
        if step == 1:
            return self._between(start, stop)
        low, high = (start, stop) if step > 0 else (stop + 1, start + 1)
        return self._between(low, high)[start - low :: step]

    def _between(self, start, stop):
        if stop - start > MAX_STR_BYTES:
            raise MemoryError(f"a slice of {stop - start} characters is too long: take at most {MAX_STR_BYTES}")
        self.origin.note(start, stop)
        where = self.origin.context, self.origin.path
        starts = range(start, stop, CHUNK_CHARS)
        return Lined("".join(host.call("read_chars", *where, at, min(at + CHUNK_CHARS, stop)) for at in starts))

    def __iter__(self):
        return iter(Lines(self.origin))

    def __contains__(self, needle):
        return self.find(needle) >= 0

    def _found(self, needle, start, stop):
        """The positions of `needle`, without overlaps."""
        if not needle:
            raise ValueError("an empty text is everywhere")
        at, tail = 0, ""
        free = start
        with self.origin.open() as file:
            while piece := file.read(CHUNK_CHARS):
                text = tail + piece
                base = at - len(tail)
                found = text.find(needle, max(free - base, 0))
                while found >= 0:
                    if base + found + len(needle) > stop:
                        return
                    yield base + found
                    free = base + found + len(needle)
                    found = text.find(needle, free - base)
                at += len(piece)
                tail = text[-(len(needle) - 1) :] if len(needle) > 1 else ""

    def find(self, needle, start=0, stop=None):
        start, stop, _ = slice(start, stop).indices(len(self))
        return next(self._found(needle, start, stop), -1)

    def index(self, needle, start=0, stop=None):
        if (found := self.find(needle, start, stop)) < 0:
            raise ValueError("substring not found")
        return found

    def count(self, needle, start=0, stop=None):
        start, stop, _ = slice(start, stop).indices(len(self))
        return sum(1 for _ in self._found(needle, start, stop))

    def startswith(self, prefix):
        return any(self[: len(p)] == p for p in (prefix if isinstance(prefix, tuple) else (prefix,)))

    def endswith(self, suffix):
        return any(self[-len(s) :] == s for s in (suffix if isinstance(suffix, tuple) else (suffix,)) if s)

    def splitlines(self, keepends=False):  # noqa: FBT002 - the signature of str
        return Lines(self.origin, keepends=keepends)

    def split(self, sep=None, maxsplit=-1):
        if sep == "\n" and maxsplit == -1:
            return Lines(self.origin, splits=True)
        raise TypeError(f"{self!r} can be split into lines only: use splitlines() or split('\\n')")

    def __getattr__(self, name):
        if name.startswith("__") or not hasattr(str, name):
            raise AttributeError(name)
        raise AttributeError(f"{name}() would copy all of {self!r}; take a slice first: context[a:b].{name}(...)")


class Files(dict):
    """A mapping from path to text. Texts are loaded on use, and dropped again to make room for others.

    It is a dict, because code checks `isinstance(context, dict)`. The end of a path is enough if it is unambiguous.
    """

    KEPT_CHARS = MAX_STR_BYTES

    def __init__(self, origins):
        super().__init__(dict.fromkeys(origins))
        self.origins = origins
        self._kept = deque()
        self._kept_chars = 0
        self._backwards = None

    def _path(self, path):
        if dict.__contains__(self, path):
            return path
        parts = str(path).removeprefix("./").removeprefix("/context/").split("/")
        near = [p for at in range(len(parts)) if dict.__contains__(self, p := "/".join(parts[at:]))]
        near += self._ending_with("/".join(parts))
        return near[0] if len(near) == 1 else None

    def _ending_with(self, end):
        """The first two paths that end with `/` and `end`, found in a sorted list of all paths read backwards."""
        if self._backwards is None:
            self._backwards = sorted(p[::-1] for p in self.origins)
        wanted = end[::-1] + "/"
        first = bisect_left(self._backwards, wanted)
        return [p[::-1] for p in self._backwards[first : first + 2] if p.startswith(wanted)]

    def __getitem__(self, path):
        found = self._path(path)
        if found is None:
            some = ", ".join(islice(self.origins, 5))
            raise KeyError(f"{path!r} is none of the {len(self)} paths ({some}, …)")
        text = dict.__getitem__(self, found)
        if text is None:
            text = load(self.origins[found])
            self._make_room(len(text))
            dict.__setitem__(self, found, text)
            self._kept.append(found)
        return text

    def _make_room(self, chars):
        """Drops the texts that were loaded first until there is room for so many characters."""
        self._kept_chars += chars
        while self._kept and self._kept_chars > self.KEPT_CHARS:
            path = self._kept.popleft()
            self._kept_chars -= len(dict.__getitem__(self, path))
            dict.__setitem__(self, path, None)

    def __contains__(self, path):
        return isinstance(path, str) and self._path(path) is not None

    def __iter__(self):
        return dict.__iter__(self)

    def get(self, path, default=None):
        return self[path] if path in self else default  # noqa: SIM401 - dict.get would not load

    def values(self):
        return _Values(self)

    def items(self):
        return _Items(self)

    def __repr__(self):
        some = ", ".join(f"{p} ({o.chars} chars)" for p, o in islice(self.origins.items(), 10))
        return f"<{len(self)} files by path: {some}{', …' if len(self) > 10 else ''}>"

    __str__ = __repr__

    def __setitem__(self, path, text):
        raise TypeError("the context is read-only; copy what you change into a variable of your own")

    def __delitem__(self, path):
        raise TypeError("the context is read-only; copy what you change into a variable of your own")

    def copy(self):
        return self

    def __deepcopy__(self, memo):
        return self


class _Values:
    """The texts of a Files, one loaded at a time."""

    def __init__(self, files):
        self._files = files

    def __len__(self):
        return len(self._files)

    def __iter__(self):
        return (self._files[path] for path in self._files)


class _Items(_Values):
    """Paths and texts of a Files, one loaded at a time."""

    def __iter__(self):
        return ((path, self._files[path]) for path in self._files)
