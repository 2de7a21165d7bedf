"""Which image the REPL of a run is opened with: a new run has that of the settings, an old one that of its record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlm_mcp.engine.types import OpenRepl
from rlm_mcp.packages.library import PackageImage, PackageLibrary, PackagesMissing


@dataclass(frozen=True, slots=True, kw_only=True)
class RunImages:
    """`chosen` is the image of new runs, None that without packages. `open_with` gives the opener of an image."""

    library: PackageLibrary
    chosen: PackageImage | None
    open_with: Callable[[PackageImage | None], OpenRepl]

    def with_packages(self, asked: Sequence[str] | None) -> PackageImage | None:
        """The image of a new run that asks for packages; None leaves it to the settings. Raises PackagesMissing."""
        return self.chosen if asked is None else self.library.choose(asked)

    def recorded(self, packages: Mapping[str, Any] | None) -> PackageImage | None:
        """The image that a record names in its first event. Raises PackagesMissing if it is not here."""
        if packages is None:
            return None
        sha256 = str(packages.get("image"))
        found = self.chosen if self.chosen is not None and self.chosen.sha256 == sha256 else None
        found = found or self.library.with_sha256(sha256)
        if found is None:
            names = " ".join(str(package).replace(" ", "==") for package in packages.get("packages") or ())
            raise PackagesMissing(
                f"the run used an image of the sandbox that is not here ({sha256[:12]}): `rlm-mcp packages add "
                f"{names}` bakes it again from the same wheels"
            )
        return found
