"""Errors that callers of rlm_mcp may catch. `str(error)` is one sentence: what happened, the values, what to do.

RlmError
├── ContextError
│   ├── UnknownContext      no context has that id or name
│   ├── UnknownPath         the context has no such file, or the file must be named
│   ├── OutOfRange          there are no such lines or characters
│   ├── SourceRefused       the source cannot be a context: missing, unreadable, empty, binary, unsafe, …
│   │   └── OutsideRoots    it lies outside the directories that may be registered
│   ├── SourceChanged       the source changed while or after it was read
│   ├── NameTaken           the name belongs to other content, or cannot be a name
│   ├── ContextInUse        a run uses it
│   ├── StoreFull           the disk or the quota is full
│   ├── StoreDamaged        the store's files are not what the catalogue says
│   └── SearchRefused       the pattern is not one that can be searched in linear time
├── SettingsError ── NoModelConfigured, PriceUnknown, UnknownClient
├── ClientConfigError
├── ModelError ── KeyRefused, UnknownModel, EndpointUnreachable, RateLimited, ProviderFailed, RequestRefused,
│                 PromptOverWindow
├── SchemaError
├── SubCallFailed ── CallsStopped
├── BudgetExceeded
├── UnknownRun, AmbiguousRun, RunBusy, RunRecordTooNew, RunRecordDamaged, RunNotWritten, ReplayDiffers
└── others, which only one file raises, stand in that file: NoDemo, PageNotWritten, TooManyRuns, …
"""


class RlmError(Exception):
    """Base of every error that rlm_mcp raises on purpose; its text may be shown to a user or a model."""


# --- models, money, settings -------------------------------------------------------------------------------------


class SettingsError(RlmError):
    """A flag, variable or line of the configuration file that cannot be used."""


class NoModelConfigured(SettingsError):
    """Nothing says which model to ask."""


class PriceUnknown(SettingsError):
    """A limit in dollars was set for a model that has no known price."""


class UnknownClient(SettingsError):
    """No MCP client of this name is known."""


class ClientConfigError(RlmError):
    """The configuration of an MCP client could not be read or changed; it is as it was."""


class ModelError(RlmError):
    """A model could not be asked, or did not answer.

    `failed_requests` were answered with an error or not at all; `unanswered_requests` of them may have been billed.
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
    """The provider kept answering 429, or asked for a longer wait than is worth it, or the account is out of credit."""


class ProviderFailed(ModelError):
    """The provider kept answering with a server error, or with something that is no reply."""


class RequestRefused(ModelError):
    """The provider refused this request (400, 413, 422) for a reason that no other dialect of the API cures."""


class PromptOverWindow(ModelError):
    """The prompt is longer than the model's window."""


class SchemaError(RlmError):
    """A `schema` that is neither a JSON Schema nor a short type."""


class SubCallFailed(RlmError):
    """A sub-call from inside the REPL gave no usable reply; the text is meant for the model that wrote the call."""


class CallsStopped(SubCallFailed):
    """A sub-call was still waited for when its run ended."""


class BudgetExceeded(RlmError):
    """A limit of the run is used up. `which` is "usd", "tokens", "sub_calls", "seconds" or "iterations"."""

    def __init__(self, text: str, *, which: str) -> None:
        super().__init__(text)
        self.which = which


# --- runs --------------------------------------------------------------------------------------------------------


class UnknownRun(RlmError):
    """No stored run has this id."""


class AmbiguousRun(RlmError):
    """A shortened run id fits more than one run."""


class RunRecordTooNew(RlmError):
    """A run record was written by a newer version than this one reads."""


class ReplayDiffers(RlmError):
    """A replay asked for something that the record does not hold."""


class RunBusy(RlmError):
    """Another process is writing this run."""


class RunRecordDamaged(RlmError):
    """The record of a run lacks what everything else in it rests on."""


class RunNotWritten(RlmError):
    """The disk does not take what a run has to put on record: it is full, or is not ours to write."""


# --- contexts -----------------------------------------------------------------------------------------------------


class ContextError(RlmError):
    """Something about a context or its source."""


class UnknownContext(ContextError):
    """No context has that id or name."""


class UnknownPath(ContextError):
    """The context has no such file, or has many and none was named."""


class OutOfRange(ContextError):
    """The file has no such lines or characters."""


class SourceRefused(ContextError):
    """The source cannot become a context: missing, unreadable, empty, binary, a device, a bomb, not understood."""


class OutsideRoots(SourceRefused):
    """The source lies outside the directories that may be registered."""


class SourceChanged(ContextError):
    """The source changed while it was being read, or a referenced file is no longer what was registered."""


class NameTaken(ContextError):
    """The name belongs to other content, or cannot be a name."""


class ContextInUse(ContextError):
    """A run that is still going uses the context."""


class StoreFull(ContextError):
    """The disk or the store's quota is full; nothing was stored."""


class StoreDamaged(ContextError):
    """A file of the store is missing or is not what the catalogue says."""


class SearchRefused(ContextError):
    """The pattern is not a regular expression that can be searched in linear time."""
