"""Talking to the host, from inside the guest. Everything goes through one file: a line out, a line back.

`call` waits for one answer; `submit` and `wait` keep many calls in flight; `call_async` is the same for
coroutines. A host function that refuses raises RuntimeError with the host's text.
"""

import contextlib
import json
import os
import random
import sys

FD = 3  # the first descriptor that the bake opens; the host opens it again in every session
_READ_BYTES = 1 << 16
_scope = None  # which task of a batch runs here after it ran ahead; see parallel

# Bound here, so that code which rebinds `os.write` or `json.dumps` changes its own view only.
_write, _read, _loads = os.write, os.read, json.loads
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Failed:
    """The place of an answer that did not come: `error` says why. It is false, and its text is the reason."""

    __slots__ = ("error",)

    def __init__(self, error):
        self.error = error

    def __bool__(self):
        return False

    def __str__(self):
        return self.error

    def __repr__(self):
        return f"<failed: {self.error}>"


def tell(message):
    """Send one message and leave its answer unread; the next message drops it."""
    line = _encode(message).encode() + b"\n"
    sent = _write(FD, line)
    if sent != len(line):
        raise ValueError(f"a message of {len(line)} bytes to the host is too long: pass less at once")


def exchange(message):
    """Send one message, return the host's answer to it. KeyboardInterrupt when the host was told to stop us."""
    tell(message)
    reply = _read(FD, _READ_BYTES)
    if not reply.endswith(b"\n"):
        parts = [reply]
        while not parts[-1].endswith(b"\n"):
            part = _read(FD, 1 << 20)
            if not part:
                raise RuntimeError("the host gave no whole answer")
            parts.append(part)
        reply = b"".join(parts)
    answer = _loads(reply)
    if "interrupted" in answer:
        raise KeyboardInterrupt
    return answer


def value(answer):
    """Return what an answer holds, or raise RuntimeError with the reason why it holds nothing."""
    if "ok" in answer:
        return answer["ok"]
    raise RuntimeError(answer["refused"])


def call(name, /, *args, **kwargs):
    """Call a host function and wait for its value."""
    return value(exchange({"do": "call", "name": name, "args": args, "kwargs": kwargs, "scope": _scope}))


def submit(name, /, *args, **kwargs):
    """Start a host function; return a ticket for `wait`."""
    return submit_all(name, [(args, kwargs)])[0]


def submit_all(name, calls):
    """Start a host function once for each (args, kwargs) of `calls`; return tickets for `wait`."""
    return value(exchange({"do": "submit", "name": name, "calls": calls, "scope": _scope}))


def wait(tickets):
    """Wait for all tickets; return their values in order, a `Failed` in the place of each that failed."""
    answers = value(exchange({"do": "wait", "tickets": tickets, "all": True}))
    by_ticket = {ticket: answer["ok"] if "ok" in answer else Failed(answer["refused"]) for ticket, answer in answers}
    return [by_ticket[ticket] for ticket in tickets]


async def call_async(name, /, *args, **kwargs):
    """Call a host function from a coroutine; others run meanwhile."""
    from host import loop

    return value(await loop.ticket_future(submit(name, *args, **kwargs)))


def sleep(seconds):
    """Sleep on the host, where it can be interrupted."""
    value(exchange({"do": "sleep", "seconds": seconds, "scope": _scope}))


@contextlib.contextmanager
def scope(number):
    """Let calls in the body take the answers that task `number` got when it ran ahead."""
    global _scope
    outer, _scope = _scope, number
    try:
        yield
    finally:
        _scope = outer


def end_scopes():
    """Have the host drop the answers that nobody asked for again."""
    value(exchange({"do": "end_scopes"}))


def flush():
    """Hand pending output to the host."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def drop_pending_output():
    """Forget output that was pending when this copy was made; the original still has it."""
    from host import cells

    cells.stdout.drop()
    cells.stderr.drop()


# Called with bytes of entropy; an image with packages adds the functions that seed their global generators.
seeders = [random.seed]


def reseed(entropy):
    """Make random numbers independent of those of other sessions and copies."""
    if entropy:
        for seed in seeders:
            seed(bytes.fromhex(entropy))


def function(name):
    """Return a plain Python function that calls the host function `name`."""

    def proxy(*args, **kwargs):
        return call(name, *args, **kwargs)

    proxy.__name__ = proxy.__qualname__ = name
    proxy.host_name = name
    proxy.__doc__ = f"Call {name} on the host and wait for its value."
    return proxy
