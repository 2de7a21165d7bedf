"""Errors that callers of rlm_mcp may catch. `str(error)` is one sentence: what happened, with the values, and a remedy.

RlmError
├── ContextError
│   ├── UnknownContext      no context has that id or name
│   ├── UnknownPath         the context has no such file, or the file must be named
│   ├── OutOfRange          there are no such lines or characters
│   ├── SourceRefused       the source cannot become a context: missing, unreadable, empty, binary, unsafe, …
│   │   ├── OutsideRoots    it lies outside the directories that may be registered
│   │   └── ConversionGivenUp  converting it has ended two processes
│   ├── SourceChanged       the source changed while or after it was read
│   ├── SourceUnreachable   the bucket that holds the source cannot be read now
│   ├── NameTaken           the name belongs to other content, or is not allowed
│   ├── ContextInUse        a run uses it
│   ├── StoreFull           the disk or the quota is full
│   ├── StoreDamaged        the store's files are not what the catalogue says
│   └── SearchRefused       the pattern cannot be searched in linear time
├── StorageUnreachable      the database or the bucket of a cluster cannot be used now
├── SettingsError ── NoModelConfigured, PriceUnknown, UnknownClient
├── ClientConfigError
├── ModelError ── KeyRefused, UnknownModel, EndpointUnreachable, RateLimited, ProviderFailed, RequestRefused,
│                 PromptOverWindow
├── SchemaError
├── SubCallFailed ── CallsStopped
├── BudgetExceeded
├── UnknownRun, AmbiguousRun, RunBusy, RunRecordTooNew, RunRecordDamaged, RunNotWritten, ReplayDiffers
└── errors that only one file raises are defined in that file: NoDemo, PageNotWritten, LimitReached, …
"""


class RlmError(Exception):
    """Base class of every error that rlm_mcp raises on purpose; its text may be shown to a user or a model."""


# --- models, money, settings -------------------------------------------------------------------------------------


class StorageUnreachable(RlmError):
    """The database or the bucket that several machines share cannot be reached, or refuses what it is asked.

    The text names no address, because tenants of a server read it; `reason` does, for the operator.
    """

    def __init__(self, text: str, *, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason or text


def operator_text(error: BaseException) -> str:
    """The text of an error for the operator, with the reason for which the storage that caused it cannot be used."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, StorageUnreachable):
        cause = cause.__cause__
    if cause is None:
        return str(error)
    return cause.reason if cause is error else f"{error} ({cause.reason})"


class SettingsError(RlmError):
    """A flag, an environment variable or a line of the settings file cannot be used."""


class NoModelConfigured(SettingsError):
    """No model is configured, and none was found on this machine."""


class PriceUnknown(SettingsError):
    """A limit in dollars was set for a model whose price is unknown."""


class UnknownClient(SettingsError):
    """rlm-mcp knows no MCP client of this name."""


class ClientConfigError(RlmError):
    """The configuration of an MCP client could not be read or changed; it was left as it was."""


class ModelError(RlmError):
    """A model could not be called, or did not answer.

    `failed_requests` counts requests that ended in an error or got no reply; the `unanswered_requests` among them may
    have been billed.
    """

    def __init__(self, text: str, *, failed_requests: int = 0, unanswered_requests: int = 0) -> None:
        super().__init__(text)
        self.failed_requests = failed_requests
        self.unanswered_requests = unanswered_requests


class KeyRefused(ModelError):
    """The provider did not accept the API key (401, 403)."""


class UnknownModel(ModelError):
    """The provider does not serve a model of this name (404)."""


class EndpointUnreachable(ModelError):
    """Nothing answered at the base URL, or the connection kept breaking."""


class RateLimited(ModelError):
    """The provider kept answering 429, asked for too long a wait, or says that the account is out of credit."""


class ProviderFailed(ModelError):
    """The provider kept answering with a server error, or with something that is not a reply."""


class RequestRefused(ModelError):
    """The provider refused this request (400, 413, 422) for a reason that no other dialect of the API avoids."""


class PromptOverWindow(ModelError):
    """The prompt is longer than the model's context window."""


class SchemaError(RlmError):
    """A `schema` is neither a JSON Schema nor a short type."""


class SubCallFailed(RlmError):
    """A sub-call from the REPL gave no usable reply; the text is meant for the model that wrote the call."""


class CallsStopped(SubCallFailed):
    """A sub-call was still pending when its run ended."""


class BudgetExceeded(RlmError):
    """A limit of the run is exhausted. `which` is "usd", "tokens", "sub_calls", "seconds" or "iterations"."""

    def __init__(self, text: str, *, which: str) -> None:
        super().__init__(text)
        self.which = which


# --- runs --------------------------------------------------------------------------------------------------------


class UnknownRun(RlmError):
    """No stored run has this id."""


class AmbiguousRun(RlmError):
    """A shortened run id matches more than one run."""


class RunRecordTooNew(RlmError):
    """A run record was written by a newer version of rlm-mcp, in a format that this version cannot read."""


class ReplayDiffers(RlmError):
    """A replay made a call that the record does not contain."""


class RunBusy(RlmError):
    """Another process is writing this run."""


class RunRecordDamaged(RlmError):
    """The record of a run lacks the events that the others depend on."""


class RunNotWritten(RlmError):
    """The record of a run cannot be written: the disk is full, or writing is not permitted."""


# --- contexts -----------------------------------------------------------------------------------------------------


class ContextError(RlmError):
    """Base class of errors about a context or its source."""


class UnknownContext(ContextError):
    """No context has that id or name."""


class UnknownPath(ContextError):
    """The context has no such file, or has several and none was named."""


class OutOfRange(ContextError):
    """The file has no such lines or characters."""


class SourceRefused(ContextError):
    """The source cannot become a context: missing, unreadable, empty, binary, a device or a decompression bomb."""


class ConversionGivenUp(SourceRefused):
    """The conversion of the document has ended two processes."""


class OutsideRoots(SourceRefused):
    """The source lies outside the directories that may be registered."""


class SourceChanged(ContextError):
    """The source changed while it was being read, or a referenced file has changed since it was registered."""


class SourceUnreachable(ContextError):
    """The bucket that holds the source, or a text that was referenced in it, does not answer now."""


class NameTaken(ContextError):
    """The name belongs to other content, or is not allowed as a name."""


class ContextInUse(ContextError):
    """An unfinished run uses the context."""


class StoreFull(ContextError):
    """The disk or the store's quota is full; nothing was stored."""


class StoreDamaged(ContextError):
    """A file of the store is missing or does not match the catalogue."""


class SearchRefused(ContextError):
    """The pattern is not a regular expression that can be searched in linear time."""
