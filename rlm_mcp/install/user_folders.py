"""Where programs of this user keep their configuration: a function of platform, home and environment."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from rlm_mcp.settings import home_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFolders:
    """A machine and a user. `platform` is that of `sys`; `home` decides how paths are written."""

    platform: str
    home: PurePath
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_windows(self) -> bool:
        """Whether paths and folders are those of Windows."""
        return self.platform == "win32"

    def path(self, template: str) -> PurePath:
        """A template such as "{appdata}/Code/User/mcp.json" as a path of this place; a `*` in it stays.

        `{appdata}` is the folder of graphical programs, `{config}` that of programs from Unix.
        """
        first, *rest = template.split("/")
        return self._folder(first).joinpath(*rest)

    def variable(self, name: str) -> PurePath | None:
        """The folder that a variable names, if it is set."""
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
    """This machine as far as it decides where MCP clients keep their configurations."""
    return UserFolders(platform=sys.platform, home=home_directory(os.environ), variables=dict(os.environ))
