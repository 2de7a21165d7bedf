"""An event loop whose selector is the host: it sleeps there, and wakes when a ticket is answered.

There are no sockets and no threads, so nothing else can wake it. `asyncio.run`, `gather`, `sleep`, timeouts
and tasks are asyncio's own, on top.
"""

import asyncio
from asyncio import base_events, events, tasks

import host

_waiting = {}  # ticket -> future
_exchange = host.exchange


class _HostSelector:
    def select(self, timeout):
        if not _waiting and timeout is None:
            raise RuntimeError("every coroutine waits for something that can never happen")
        request = {"do": "wait", "tickets": list(_waiting), "all": False, "seconds": timeout}
        return _exchange(request)["ok"]


class HostLoop(base_events.BaseEventLoop):
    """asyncio's loop with the parts that need an operating system left out."""

    def __init__(self):
        super().__init__()
        self._selector = _HostSelector()

    def _process_events(self, answers):
        for ticket, answer in answers:
            future = _waiting.pop(ticket, None)
            if future is not None and not future.done():
                future.set_result(answer)

    def _write_to_self(self):
        """Nothing to wake: the loop runs on the only thread."""

    def run_in_executor(self, executor, func, *args):
        """Run `func` at once: there are no threads to run it on."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    async def shutdown_default_executor(self, timeout=None):
        """There is none."""


class _Policy(events._AbstractEventLoopPolicy):
    _loop = None

    def get_event_loop(self):
        if self._loop is None or self._loop.is_closed():
            self._loop = HostLoop()
        return self._loop

    def set_event_loop(self, loop):
        self._loop = loop

    def new_event_loop(self):
        return HostLoop()


_policy = _Policy()
events._set_event_loop_policy(_policy)
_cell_policy = _Policy()


def ticket_future(ticket):
    """Return a future of the running loop that gets the answer to `ticket`."""
    future = events.get_running_loop().create_future()
    _waiting[ticket] = future
    future.add_done_callback(lambda done: _forget(ticket) if done.cancelled() else None)
    return future


def _forget(ticket):
    if _waiting.pop(ticket, None) is not None:
        _exchange({"do": "cancel", "tickets": [ticket]})


def run(coroutine):
    """Run the coroutine of a cell on the loop that all cells share, so tasks live on between cells."""
    loop = _cell_policy.get_event_loop()
    _policy.set_event_loop(loop)
    task = loop.create_task(coroutine)
    try:
        return loop.run_until_complete(task)
    except BaseException:
        _drop_others(loop, task)
        raise


def _drop_others(loop, task):
    """After a cell ended by an exception: cancel what it left running, as asyncio.run does."""
    left = [t for t in tasks.all_tasks(loop) if not t.done()]
    for t in left:
        t.cancel()
    if left:
        loop.run_until_complete(tasks.gather(*left, return_exceptions=True))


_plain_run = asyncio.run


def _nested_run(main, *, debug=None, loop_factory=None):
    """asyncio.run that also works inside a running loop, where models call it: the inner loop runs to its end."""
    outer = events._get_running_loop()
    if outer is None:
        return _plain_run(main, debug=debug, loop_factory=loop_factory)
    current = tasks.current_task(outer)
    tasks._leave_task(outer, current)
    events._set_running_loop(None)
    try:
        return _plain_run(main, debug=debug, loop_factory=loop_factory)
    finally:
        events._set_running_loop(outer)
        tasks._enter_task(outer, current)


asyncio.run = asyncio.runners.run = _nested_run
