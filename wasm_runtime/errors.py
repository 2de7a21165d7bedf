"""Errors of wasm_runtime. What guest code raises is data (`ExecResult.error`), never one of these.

RuntimeFailure
├── ImageError           the image or a compiled module cannot be used
├── SnapshotMismatch     a checkpoint was made by another image
├── OutOfMemoryBudget    the process-wide memory budget is spent
├── SessionClosed        the session was closed
├── SessionBusy          the session is running another cell
└── GuestCallError       a guest function called with `Session.call` raised
CallRefused              raised by a host function to show its text to the guest
"""


class RuntimeFailure(Exception):
    """Base of every error of this package."""


class ImageError(RuntimeFailure):
    """The image or a compiled module is missing, torn or foreign, and could not be made anew."""


class SnapshotMismatch(RuntimeFailure):
    """A checkpoint was made by another image, or is not a checkpoint."""


class OutOfMemoryBudget(RuntimeFailure):
    """The memory budget of all sessions of this process is spent."""


class SessionClosed(RuntimeFailure):
    """The session was closed."""


class SessionBusy(RuntimeFailure):
    """The session is running a cell on another thread; a session never queues."""


class GuestCallError(RuntimeFailure):
    """A guest function called with `Session.call` raised; the text is the guest's."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type_name = type_name
        self.message = message


class CallRefused(Exception):
    """Raised by a host function: the guest sees this text as a RuntimeError."""
