"""Which image the REPL of a run is opened with: a new run has that of the settings, an old one that of its record."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from rlm_mcp.contexts.types import Context
from rlm_mcp.engine.types import OpenRepl
from rlm_mcp.packages.library import PackageImage, PackageLibrary
from rlm_mcp.packages.types import PackagesMissing
from rlm_mcp.repl.types import GuestCalls, Repl


@dataclass(frozen=True, slots=True, kw_only=True)
class RunImages:
    """`chosen` is the image of new runs, None that without packages. `open_with` gives the opener of an image.

    While `chosen` is not ready, because it is being compiled for this machine, new runs do without packages.
    """

    library: PackageLibrary
    chosen: PackageImage | None
    open_with: Callable[[PackageImage | None], OpenRepl]
    is_ready: Callable[[], bool] = lambda: True

    def with_packages(self, asked: Sequence[str] | None) -> PackageImage | None:
        """The image of a new run that asks for packages; None leaves it to the settings. Raises PackagesMissing."""
        if asked is not None:
            return self.library.choose(asked)
        return self.chosen if self.is_ready() else None

    def open_repl(
        self, contexts: Sequence[Context], calls: GuestCalls, *, value: object = None
    ) -> AbstractAsyncContextManager[Repl]:
        """Opens a REPL with the image that a new run gets now."""
        return self.open_with(self.with_packages(None))(contexts, calls, value=value)

    def recorded(self, packages: Mapping[str, Any] | None) -> PackageImage | None:
        """The image that a record names in its first event. Raises PackagesMissing if it is not here."""
        if packages is None:
            return None
        sha256, used = str(packages.get("image")), [str(package) for package in packages.get("packages") or ()]
        found = self.chosen if self.chosen is not None and self.chosen.sha256 == sha256 else None
        found = found or self.library.used_by_run(sha256, used)
        if found is None:
            names = " ".join(package.replace(" ", "==") for package in used)
            raise PackagesMissing(
                f"the run used an image of the sandbox that is not here ({sha256[:12]}): `rlm-mcp packages add "
                f"{names}` bakes it again from the same wheels"
            )
        return found
