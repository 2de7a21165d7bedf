"""The variables in the namespace of the cells: which a cell has changed, their types, sizes and previews.

Runs inside the sandbox as a module of its own. Methods of values are those of the code in the cells and may do
anything: in a report, those that do not come to an end are interrupted, and not called again.
"""

import reprlib
import signal
import types
from contextlib import contextmanager

import __main__

PREVIEW_CHARS = 200


class _Namespace:
    """The facts about the names and values of cells that one report needs from the last."""

    def __init__(self):
        self.baseline = set()
        """the names that were there before any cell"""
        self.marks = {}
        """of all values before the cell"""
        self.slow = {}
        """name -> id of a value whose methods do not come to an end"""
        self.is_reporting = False
        self.is_late = False
        """the time of the report is over"""


_state = _Namespace()


def start():
    """Excludes the names that are there now, except `answer`, from the variables."""
    _state.baseline = set(vars(__main__)) - {"answer"}


def mark_all():
    """Remembers all values before a cell."""
    _state.marks = {name: _mark(value) for name, value in vars(__main__).items()}


def report():
    """All variables, the changed ones first, and the names of those; for the host, in the time that it gives."""
    with _reporting():
        return _variables()


def list_all():
    """All variables, for the host."""
    return report()[0]


def all_variables():
    """All variables, for code in a cell."""
    return _variables()[0]


@contextmanager
def _reporting():
    """Lets the end of the time interrupt code that looks at values in the body."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    _state.is_reporting, _state.is_late = True, False
    try:
        yield
    finally:
        _state.is_reporting = _state.is_late = False
        signal.signal(signal.SIGINT, handler)


def _mark(value):
    """A mark of a value that changes when the name is bound again, and mostly when the value grows or shrinks.

    It is made before each cell, so it calls no method that code has defined, which might not come to an end.
    """
    kind = next((kind for kind in (list, dict, set, str, bytes, tuple) if issubclass(type(value), kind)), None)
    return id(value), 0 if kind is None else kind.__len__(value)


def _variables():
    space = vars(__main__)
    names = [
        name
        for name, value in list(space.items())
        if type(name) is str and not name.startswith("_") and name not in _state.baseline
        and _look(name, _is_variable, otherwise=True)
    ]  # fmt: skip
    changed = [name for name in names if _state.marks.get(name) != _mark(space[name])]
    old = set(names).difference(changed)
    ordered = changed[::-1] + [name for name in names[::-1] if name in old]
    return [_look(name, _variable, otherwise=_slow_variable(name)) for name in ordered[:200]], changed


def _look(name, function, *, otherwise):
    """`function` of a name and its value, whose methods are those of the code in the cells and may do anything.

    In a report, those that do not end in its time are not called again. In a cell, the interrupt ends the cell.
    """
    value = vars(__main__)[name]
    if _state.is_late or _state.slow.get(name) == id(value):
        return otherwise
    try:
        return function(name, value)
    except KeyboardInterrupt:
        if not _state.is_reporting:
            raise
        _state.is_late = True
        _state.slow[name] = id(value)
        return otherwise
    except BaseException:  # SystemExit too: a report on a cell does not end the session
        return otherwise


def _is_variable(name, value):
    return not _is_imported(value) and not (name == "answer" and _is_untouched_answer(value))


def _slow_variable(name):
    return {"name": name, "type": "object", "size": None, "preview": "<its len or repr takes too long>"}


def _is_imported(value):
    """Whether a value is a module, or a class or function that was not defined in a cell."""
    made_elsewhere = getattr(value, "__module__", "__main__") != "__main__"
    return isinstance(value, types.ModuleType) or (callable(value) and hasattr(value, "__name__") and made_elsewhere)


def _is_untouched_answer(value):
    return isinstance(value, dict) and not value.get("content")


def _variable(name, value):
    size = None
    try:
        if not isinstance(value, type):
            size = len(value)
    except KeyboardInterrupt:
        raise
    except BaseException:
        size = None
    return {"name": name, "type": type(value).__name__, "size": size, "preview": _preview(value)}


_short = reprlib.Repr()
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = _short.maxfrozenset = _short.maxdeque = 6
_short.maxstring = _short.maxother = _short.maxlong = 80


def _preview(value):
    try:
        if isinstance(value, str):
            shown = repr(str.__getitem__(value, slice(0, PREVIEW_CHARS)))
        elif isinstance(value, types.FunctionType):
            shown = f"def {value.__name__}(…)"
        else:
            shown = _short.repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        shown = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return shown if len(shown) <= PREVIEW_CHARS else shown[: PREVIEW_CHARS - 1] + "…"
