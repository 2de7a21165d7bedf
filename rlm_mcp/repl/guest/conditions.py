"""Whether an answer that is not known may decide if a sub-call is made: found in copies that rehearse a cell.

Runs inside the sandbox as a module of its own. A copy gets guesses for answers, so a call that it comes to may depend
on one. What depends on guesses is looked up in the syntax trees of the cells: names are followed through assignments
within one function, from the calls that gave a guess. A call is conditional if it stands under a condition that a guess
may decide, or if such a condition may end the loop or the function before it; and so in every function of its stack. A
wrong verdict costs sub-calls in vain, or time.
"""

import ast
import linecache
import sys
import types

import __main__

ENDING_EARLY = {"any", "all", "next", "takewhile", "dropwhile"}
LEAVING = {"exit", "quit", "_exit"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.GeneratorExp)
LOOPS = (ast.For, ast.AsyncFor, ast.While)

code = ""
"""The cell that runs; the others are in linecache, if they define anything."""

_trees = {}
_paths = {}
_unsure = {}
_verdicts = {}


def stack():
    """The functions of cells in which a call is being made, the innermost first, each as the path to the call in it."""
    frames = []
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<cell"):
            frames.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    for one in frames:
        if one not in _paths:
            _paths[one] = _path_of(*one, frames[-1][0].co_filename)
    return tuple(frames)


def place(frames):
    """A text for the place of a call."""
    return "" if not frames else f"{frames[0][0].co_filename} {frames[0][0].co_name} {frames[0][1]}"


def is_conditional(frames):
    """Whether a guess may decide if this call is made."""
    if frames not in _verdicts:
        _verdicts[frames] = _is_conditional(frames)
    return _verdicts[frames]


def _is_conditional(frames):
    codes = [one for one, _ in frames]
    if len(set(codes)) < len(codes):
        return True  # an answer may end a recursion
    try:
        paths = [_paths[one] for one in frames]
        return None in paths or any(_is_decided(path, paths) for path in paths)
    except RecursionError:
        return True


def mark_guess(frames):
    """Notes that a call has given a guess."""
    for one in frames:
        path = _paths[one]
        if path is not None and not hasattr(path[-1], "is_guess"):
            path[-1].is_guess = True
            _unsure.clear()
            _verdicts.clear()


def _path_of(code_object, at, current):
    try:
        if current not in _trees:
            _trees[current] = ast.parse(code)
        return _path(_tree(code_object.co_filename), list(code_object.co_positions())[at // 2])
    except Exception:  # the code is not that of a cell, or its text cannot be parsed again: then nothing is known of it
        return None


def _tree(name):
    """The syntax tree of a cell."""
    if name not in _trees:
        _trees[name] = ast.parse("".join(linecache.cache[name][2]))
    return _trees[name]


def _path(tree, position):
    """The nodes from the module to the expression at a position; `position` is (line, end line, column, end column)."""
    line, end_line, column, end_column = position
    path = [tree]
    while True:
        for child in ast.iter_child_nodes(path[-1]):
            if _spans(child, (line, column), (end_line, end_column)):
                path.append(child)
                break
        else:
            return path


def _spans(node, start, end):
    if not hasattr(node, "lineno"):  # comprehensions, cases of match, and operators have no place of their own
        return any(_spans(child, start, end) for child in ast.iter_child_nodes(node))
    return (node.lineno, node.col_offset) <= start and end <= (node.end_lineno, node.end_col_offset)


def _is_decided(path, others):
    """Whether a guess may decide if the last node of a path is reached, or with what, seen from its function.

    `others` are the paths of all functions of the stack, which may assign to names of this one.
    """
    bounds = [number for number, node in enumerate(path[:-1]) if isinstance(node, FUNCTIONS)]
    inner = path[bounds[-1] :] if bounds else path
    unsure = set().union(*(_unsure_names(scope) for scope in [path[0], *(path[number] for number in bounds)]))
    unsure |= {name for other in others for name in _changed_outside(other)}
    unsure |= {name for inner in others for name in _changed_receiver(path, inner)}
    line = path[-1].lineno
    return (
        _depends(path[-1], unsure.difference(*(_fresh(node, path[-1], unsure) for node in inner)))
        or any(_guards(outer, child, unsure) for outer, child in zip(inner, [*inner[1:], None], strict=True))
        or any(_may_end(node, line, unsure) for node in inner if isinstance(node, LOOPS))
        or (isinstance(inner[0], FUNCTIONS[:2]) and _may_leave(inner[0], line, unsure))
    )


def _depends(node, unsure):
    """Whether what a call is given depends on a guess: the copies may agree by chance, as on the sign of a number."""
    return isinstance(node, ast.Call) and any(_is_unsure(one, unsure) for one in _given(node))


def _fresh(loop, call, unsure):
    """The names that each round of a loop binds anew from what is known, and does not change before a call."""
    if not isinstance(loop, ast.For | ast.AsyncFor) or _is_unsure(loop.iter, unsure):
        return set()
    start = call.lineno, call.col_offset
    before = [node for node in _statements(loop) if (node.end_lineno, node.end_col_offset) <= start]
    return _roots(loop.target) - {root for statement in before for root in _touched(statement)}


def _changed_outside(path):
    """The names outside of the functions of a path that those change because of a guess."""
    scopes = [node for node in path if isinstance(node, FUNCTIONS)]
    return {name for scope in scopes for name in _unsure_names(scope) - _local_names(scope)}


def _changed_receiver(path, inner):
    """The root of the object whose method `inner` is called, if a guess changes that object."""
    functions = [node for node in inner if isinstance(node, FUNCTIONS[:2])]
    first = functions[-1].args.args[:1] if functions else []
    return _receiver(path[-1]) if first and first[0].arg in _unsure_names(functions[-1]) else set()


def _local_names(function):
    nodes = list(_within(function))
    shared = {name for node in nodes if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    parameters = {node.arg for node in nodes if isinstance(node, ast.arg)}
    return (stored | parameters) - shared


def _guards(outer, child, unsure):
    """Whether `outer` may skip `child` because of a guess."""
    match outer:
        case ast.If(test=test) | ast.IfExp(test=test):
            return child is not test and _is_unsure(test, unsure)
        case ast.While(test=test):
            return _is_unsure(test, unsure)
        case ast.BoolOp(values=values) if child is not None:
            return any(_is_unsure(value, unsure) for value in values[: values.index(child)])
        case ast.ExceptHandler():
            return True
        case ast.Match(subject=subject):
            return child is not subject and _is_unsure(subject, unsure)
        case ast.For(iter=source) | ast.AsyncFor(iter=source):
            return child is not source and _is_unsure(source, unsure)
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            reached = isinstance(child, ast.comprehension)
            tests = [test for made in outer.generators if not reached for test in made.ifs]
            sources = [made.iter for made in outer.generators if made is not child]
            return any(_is_unsure(part, unsure) for part in tests + sources)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in ENDING_EARLY
        case ast.Compare(ops=operators):  # `"yes" in (ask(i) for i in items)`
            return child is None and any(isinstance(one, ast.In | ast.NotIn) for one in operators)
    return False


def _is_unsure(expression, unsure):
    """Whether the value of an expression may depend on a guess."""
    return any(
        (isinstance(node, ast.Name) and node.id in unsure) or hasattr(node, "is_guess") for node in ast.walk(expression)
    )


def _unsure_names(scope):
    """The names of a function, or of the module, whose values may depend on a guess."""
    if scope not in _unsure:
        names = _unsure[scope] = set()
        nodes = list(_within(scope))
        count = -1
        while count < len(names):
            count = len(names)
            for node in nodes:
                _add_unsure(node, names)
    return _unsure[scope]


def _add_unsure(node, names):
    match node:
        case ast.Assign(targets=targets, value=value) if any(_is_unsure(one, names) for one in [value, *targets]):
            names.update(root for target in targets for root in _roots(target))
        case (
            ast.AnnAssign(target=target, value=value)
            | ast.AugAssign(target=target, value=value)
            | ast.NamedExpr(target=target, value=value)
        ) if value is not None and (_is_unsure(value, names) or _is_unsure(target, names)):
            names.update(_roots(target))
        case (
            ast.For(target=target, iter=value)
            | ast.AsyncFor(target=target, iter=value)
            | ast.comprehension(target=target, iter=value)
        ) if _is_unsure(value, names):
            names.update(_roots(target))
        case ast.withitem(context_expr=value, optional_vars=ast.AST() as target) if _is_unsure(value, names):
            names.update(_roots(target))
        case ast.Call(func=ast.Attribute() as method) if any(_is_unsure(one, names) for one in _given(node)):
            names.update(_roots(method) - _modules())  # notes.append(answer)
        case ast.Call(func=ast.Name(id=name)) if any(_is_unsure(one, names) for one in _given(node)):
            names.update(_changed_by(name))
        case ast.If(test=test) | ast.While(test=test) if _is_unsure(test, names):
            names.update(_touched(node) - _modules())
        case ast.ExceptHandler():
            names.update(_touched(node) - _modules())


def _modules():
    """The names of modules, which answers do not change: `json.loads(answer)`."""
    return {name for name, value in vars(__main__).items() if isinstance(value, types.ModuleType)}


def _changed_by(name):
    """The names outside of the functions of this name that they may change."""
    code_object = getattr(vars(__main__).get(name), "__code__", None)
    if code_object is not None and code_object.co_filename in linecache.cache:
        _tree(code_object.co_filename)
    functions = [
        node
        for tree in list(_trees.values())
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS[:2]) and node.name == name
    ]
    return {root for function in functions for root in _touched(function) - _local_names(function)} - _modules()


def _touched(node):
    """The names that a function or statement assigns to, or has methods called of."""
    nodes = list(_within(node))
    stored = {root for node in nodes for root in _roots(node) if isinstance(getattr(node, "ctx", None), ast.Store)}
    return stored.union(*(_receiver(node) for node in nodes))


def _receiver(node):
    """The root of what a method is called of."""
    return _roots(node.func) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else set()


def _given(call):
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _roots(target):
    """The names that an assignment to a target changes: `d` of `d[k].x`."""
    match target:
        case ast.Name(id=name):
            return {name}
        case ast.Attribute(value=value) | ast.Subscript(value=value) | ast.Starred(value=value):
            return _roots(value)
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return {root for part in parts for root in _roots(part)}
    return set()


def _within(node):
    """The nodes below one, without those of functions that are defined in it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (*FUNCTIONS, ast.ClassDef)):
            yield from _within(child)


def _may_end(loop, line, unsure):
    """Whether a guess may end the loop, or skip the rest of a round with what is at `line`."""
    return any(
        isinstance(node, ast.Break | ast.Return | ast.Raise | ast.Assert)
        or _leaves(node)
        or (isinstance(node, ast.Continue) and node.lineno < line)
        for node in _unsure_statements(loop.body, unsure)
    )


def _may_leave(function, line, unsure):
    """Whether a guess may end the function before `line`, or by an exception."""
    return any(
        isinstance(node, ast.Raise | ast.Assert)
        or _leaves(node)
        or (isinstance(node, ast.Return) and node.lineno < line)
        for node in _unsure_statements(function.body, unsure)
    )


def _leaves(node):
    match node:
        case ast.Expr(value=ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name))):
            return name in LEAVING
    return False


def _unsure_statements(body, unsure):
    """The statements that a guess may decide about, asserts about it included."""
    for node in body:
        match node:
            case ast.Assert(test=test):
                if _is_unsure(test, unsure):
                    yield node
            case ast.If(test=condition) | ast.While(test=condition) | ast.Match(subject=condition):
                decided = _is_unsure(condition, unsure)
                yield from _statements(node) if decided else _unsure_statements(_blocks(node), unsure)
            case ast.Try() | ast.TryStar():
                for handler in node.handlers:
                    yield from _statements(handler)
                yield from _unsure_statements([*node.body, *node.orelse, *node.finalbody], unsure)
            case ast.For() | ast.AsyncFor() | ast.With() | ast.AsyncWith():
                yield from _unsure_statements(_blocks(node), unsure)


def _blocks(node):
    """The statements right inside of a statement."""
    cases = [inner for case in getattr(node, "cases", []) for inner in case.body]
    return [*getattr(node, "body", []), *getattr(node, "orelse", []), *cases]


def _statements(node):
    return (inner for inner in _within(node) if isinstance(inner, ast.stmt))
