"""Many things at once in an interpreter that has one thread.

`parallel_map` runs a function on forked copies of this interpreter, each on a thread of the host: real CPU
parallelism, any closure, host calls that block. A copy's changes to outer variables stay in the copy; only the
returned values come back, pickled.

`ThreadPoolExecutor` and `threading.Thread` promise shared variables, which copies cannot give. Their functions
therefore run here, one after the other, but first *ahead* in forked copies whose only yield is the answers to
the host calls they made. When the function then runs here and comes to the same calls, the answers are there.
Results are those of running one after the other; the time is that of waiting for all at once.
"""

import base64
import concurrent.futures.thread
import pickle
import threading
from concurrent.futures import _base

import host

_exchange = host.exchange
_WORKERS_AT_MOST = 64

_task = None  # (function, items) while copies work on it
_is_copy = False


def parallel_map(function, items, *, workers=None):
    """Return [function(item) for item in items], computed in parallel on copies of this interpreter.

    Changes that the function makes to outer variables are lost with its copy: return what you need.
    The first exception, in the order of the items, is raised here.
    """
    items = list(items)
    if _is_copy or len(items) < 2:
        return [function(item) for item in items]
    return [_opened(outcome) for outcome in _forked(function, items, workers or _WORKERS_AT_MOST, ahead=False)]


def _forked(function, items, workers, ahead):
    global _task
    host.flush()
    _task = (function, items)
    try:
        request = {"do": "fork", "count": len(items), "workers": min(workers, len(items)), "ahead": ahead}
        return host.value(_exchange(request))
    finally:
        _task = None


def _opened(outcome):
    if outcome.get("stdout"):
        print(outcome["stdout"], end="")
    if "value" in outcome:
        return pickle.loads(base64.b64decode(outcome["value"]))
    if "exception" in outcome:
        raise pickle.loads(base64.b64decode(outcome["exception"]))
    raise RuntimeError(outcome["error"])


def worker():
    """Work through items in a forked copy until there are no more. Called by the host, on a stack of its own."""
    global _is_copy
    _is_copy = True
    host.drop_pending_output()
    function, items = _task
    while True:
        order = host.value(_exchange({"do": "item"}))
        if order is None:
            return
        host.reseed(order.get("entropy"))
        outcome = _tried(function, items[order["index"]], ahead=order["ahead"])
        host.flush()
        _exchange({"do": "item_done", "index": order["index"], "outcome": outcome})


def _tried(function, item, ahead):
    try:
        value = function(item)
    except BaseException as error:
        return {} if ahead else _packed_exception(error)
    if ahead:
        return {}
    try:
        return {"value": base64.b64encode(pickle.dumps(value)).decode()}
    except Exception as error:
        return {"error": f"what the function returned, a {type(value).__name__}, cannot be copied back: {error}"}


def _packed_exception(error):
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
        return {"exception": base64.b64encode(data).decode()}
    except Exception:
        return {"error": f"{type(error).__name__}: {error}"}


def _call_task(task):
    return task[0](*task[1], **task[2])


def run_all(tasks):
    """Run (function, args, kwargs) tasks; return [(value, None) or (None, exception)] in order."""
    if len(tasks) > 1 and not _is_copy:
        _forked(_call_task, tasks, _WORKERS_AT_MOST, ahead=True)
    outcomes = []
    for number, task in enumerate(tasks):
        with host.scope(number):
            try:
                outcomes.append((_call_task(task), None))
            except Exception as error:
                outcomes.append((None, error))
    host.end_scopes()
    return outcomes


class _Future(_base.Future):
    """A future that runs what its executor has waiting as soon as somebody asks for it."""

    def __init__(self, executor):
        super().__init__()
        self._executor = executor

    def result(self, timeout=None):
        self._executor.run_waiting()
        return super().result(timeout=0)

    def exception(self, timeout=None):
        self._executor.run_waiting()
        return super().exception(timeout=0)

    def done(self):
        self._executor.run_waiting()
        return super().done()


class ThreadPoolExecutor(_base.Executor):
    """Stands for concurrent.futures.ThreadPoolExecutor: host calls in its functions overlap, the rest does not."""

    def __init__(self, max_workers=None, thread_name_prefix="", initializer=None, initargs=()):
        self._waiting = []
        self._closed = False
        if initializer is not None:
            initializer(*initargs)

    def submit(self, fn, /, *args, **kwargs):
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = _Future(self)
        self._waiting.append((future, (fn, args, kwargs)))
        return future

    def map(self, fn, *iterables, timeout=None, chunksize=1, buffersize=None):
        outcomes = run_all([(fn, args, {}) for args in zip(*iterables)])
        return _results(outcomes)

    def run_waiting(self):
        """Run what was submitted and has not run."""
        waiting, self._waiting = [entry for entry in self._waiting if entry[0].set_running_or_notify_cancel()], []
        for (future, _), (value, error) in zip(waiting, run_all([task for _, task in waiting])):
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    def shutdown(self, wait=True, *, cancel_futures=False):
        if cancel_futures:
            for future, _ in self._waiting:
                future.cancel()
        self.run_waiting()
        self._closed = True


def _results(outcomes):
    for value, error in outcomes:
        if error is not None:
            raise error
        yield value


def _as_completed(fs, timeout=None):
    fs = list(fs)
    _run(fs)
    return iter(fs)


def _wait(fs, timeout=None, return_when=concurrent.futures.ALL_COMPLETED):
    fs = set(fs)
    _run(fs)
    return _base.DoneAndNotDoneFutures(fs, set())


def _run(futures):
    for future in futures:
        if isinstance(future, _Future):
            future._executor.run_waiting()


_started = []


class Thread(threading.Thread):
    """Stands for threading.Thread: it runs when it is joined, when the cell ends, or when something waits for it."""

    _ran = False

    def start(self):
        if self in _started or self._ran:
            raise RuntimeError("threads can only be started once")
        _started.append(self)

    def join(self, timeout=None):
        run_threads()

    def is_alive(self):
        return self in _started


def run_threads():
    """Run the threads that were started and have not run. What one raises is printed, as threading does."""
    while _started:
        threads, _started[:] = list(_started), []
        for thread in threads:
            thread._ran = True
        for thread, (_, error) in zip(threads, run_all([(thread.run, (), {}) for thread in threads])):
            if error is not None:
                threading.excepthook(threading.ExceptHookArgs([type(error), error, error.__traceback__, thread]))


def _condition_wait(self, timeout=None):
    """Condition.wait in a world where nobody else can run: threads that wait do, then it is an error to wait on."""
    if _started:
        self.release()
        try:
            run_threads()
        finally:
            self.acquire()
        return True
    if timeout is not None:
        host.sleep(timeout)
        return False
    raise RuntimeError("this waits for another thread, and there is none that could run: it would wait for ever")


def install():
    """Put the stand-ins where programs look for them."""
    concurrent.futures.ThreadPoolExecutor = concurrent.futures.thread.ThreadPoolExecutor = ThreadPoolExecutor
    concurrent.futures.as_completed = _as_completed
    concurrent.futures.wait = _wait
    threading.Thread = Thread
    threading.Condition.wait = _condition_wait
