"""Errors of wasm_runtime. An exception of guest code is data (`ExecResult.error`), never one of these.

RuntimeFailure
├── ImageError           the image or a compiled module cannot be used
├── SnapshotMismatch     a checkpoint was made by another image
├── OutOfMemoryBudget    the memory budget of all sessions is used up
├── SessionClosed        the session was closed
├── SessionBusy          the session is running another cell
└── GuestCallError       a guest function called with `Session.call` raised
CallRefused              raised by a host function whose text the guest may see
"""


class RuntimeFailure(Exception):
    """Base of every error of this package."""


class ImageError(RuntimeFailure):
    """The image or its compiled module is missing, damaged or foreign, and could not be made again."""


class SnapshotMismatch(RuntimeFailure):
    """A checkpoint was made by another image, or is not a checkpoint."""


class OutOfMemoryBudget(RuntimeFailure):
    """The memory budget that all sessions of a Runtime share is used up."""


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
