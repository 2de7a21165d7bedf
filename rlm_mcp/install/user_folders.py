"""The folders in which a user's programs keep their configuration, by platform, home and environment."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from rlm_mcp.settings import home_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFolders:
    """The folders of one user. `platform` is `sys.platform`; the type of `home` decides how paths are written."""

    platform: str
    home: PurePath
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_windows(self) -> bool:
        """Whether the paths and folders are those of Windows."""
        return self.platform == "win32"

    def path(self, template: str) -> PurePath:
        """The path of a template such as "{appdata}/Code/User/mcp.json"; a `*` in it is kept.

        `{appdata}` is the configuration folder of graphical programs, `{config}` that of Unix programs.
        """
        first, *rest = template.split("/")
        return self._folder(first).joinpath(*rest)

    def variable(self, name: str) -> PurePath | None:
        """The folder that an environment variable names, or None if it is not set."""
        value = self.variables.get(name, "").strip()
        return type(self.home)(value) if value else None

    def _folder(self, name: str) -> PurePath:
        match name, self.platform:
            case "{config}", "linux":
                return self.variable("XDG_CONFIG_HOME") or self.home / ".config"
            case "{config}", _:
                return self.home / ".config"
            case "{appdata}", "win32":
                return self.variable("APPDATA") or self.home / "AppData" / "Roaming"
            case "{localappdata}", _:
                return self.variable("LOCALAPPDATA") or self.home / "AppData" / "Local"
            case "{appdata}", "darwin":
                return self.home / "Library" / "Application Support"
            case "{appdata}", _:
                return self.variable("XDG_CONFIG_HOME") or self.home / ".config"
        return self.home / name.replace("{home}", "")


def current_user_folders() -> UserFolders:
    """The folders of the user who runs this process."""
    return UserFolders(platform=sys.platform, home=home_directory(os.environ), variables=dict(os.environ))
