"""Reads settings from flags, environment variables and the file of the user."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlm_mcp.errors import SettingsError
from rlm_mcp.settings.table import SETTINGS, Setting
from rlm_mcp.settings.types import DEFAULT_LIMITS, Settings
from rlm_mcp.spending import RunLimits

PREFIX = "RLM_MCP_"
FALLBACK_VARIABLES = {"base_url": "OPENAI_BASE_URL", "api_key": "OPENAI_API_KEY"}
"""The names that other programs use for the same settings; they apply where ours are not set."""


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config_file: Path | None = None,
) -> Settings:
    """Reads flags, environment and file. A flag that is None was not given. Raises SettingsError."""
    environ = os.environ if environ is None else environ
    found: dict[str, tuple[object, str]] = {}
    for name, variable in FALLBACK_VARIABLES.items():
        if not _is_unset(environ.get(variable, "")):
            found[name] = (environ[variable], variable)
    found.update(_from_file(config_file or config_path(environ)))
    from_environment, warnings = _from_environment(environ)
    found.update(from_environment)
    found.update(_from_flags(flags or {}))

    values: dict[str, Any] = {
        "data_dir": Path(environ.get("XDG_DATA_HOME") or home_directory(environ) / ".local" / "share") / "rlm-mcp",
        "cache_dir": Path(environ.get("XDG_CACHE_HOME") or home_directory(environ) / ".cache") / "rlm-mcp",
    }
    for name, (raw, source) in found.items():
        values[name] = _parsed(SETTINGS[name], raw, source)
    values["limits"] = replace(DEFAULT_LIMITS, **{n: values.pop(n) for n in RunLimits.__slots__ if n in values})
    sources = {name: source for name, (_, source) in found.items()}
    traces, content = _traces(environ)
    return Settings(**values, traces=traces, trace_content=content, sources=sources, warnings=tuple(warnings))


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """The path of the settings file, which need not exist."""
    environ = os.environ if environ is None else environ
    return Path(environ.get("XDG_CONFIG_HOME") or home_directory(environ) / ".config") / "rlm-mcp" / "config.toml"


def local_roots(environ: Mapping[str, str] | None = None, *, directory: Path | None = None) -> tuple[Path, ...]:
    """The roots for a client on stdio if none are set: the user's home and the working directory.

    A directory that is the root of the file system is left out; graphical clients start their servers there.
    """
    environ = os.environ if environ is None else environ
    found = dict.fromkeys([home_directory(environ).resolve(), (directory or Path.cwd()).resolve()])
    return tuple(path for path in found if path != path.parent)


def home_directory(environ: Mapping[str, str]) -> Path:
    """The user's home, which HOME overrides on every platform."""
    return Path(environ.get("HOME") or Path.home())


def _parsed(setting: Setting, raw: object, source: str) -> object:
    try:
        return setting.parse(raw, source)
    except (ValueError, OverflowError, RecursionError, RuntimeError) as error:
        raise SettingsError(f"{source} has a value that cannot be used ({error}): correct it") from error


def _from_file(path: Path) -> dict[str, tuple[object, str]]:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({error}): correct it or remove it") from error
    import tomllib

    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not TOML, a number of 5,000 digits, or nested too deep
        raise SettingsError(f"{path} is not TOML ({error}): correct that line") from error
    for key in table:
        if key not in SETTINGS:
            place = f"{path}, line {_line_of(key, text)},"
            raise SettingsError(f"{place} sets {key!r}, which is not a setting: {_nearest(key, list(SETTINGS))}")
    return {key: (value, f"{key} in {path}, line {_line_of(key, text)}") for key, value in table.items()}


def _line_of(key: str, text: str) -> int:
    """The line of a TOML text that has a top-level key, either as a key or as the name of a table."""
    found = re.search(rf"""^[ \t]*\[?[ \t]*["']?{re.escape(key)}["']?[ \t]*[=.\]]""", text, re.MULTILINE)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def _from_environment(environ: Mapping[str, str]) -> tuple[dict[str, tuple[object, str]], list[str]]:
    found: dict[str, tuple[object, str]] = {}
    warnings: list[str] = []
    variables = {PREFIX + name.upper(): name for name in SETTINGS}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or _is_unset(value):
            continue
        if variable in variables:
            found[variables[variable]] = (value, variable)
        elif _closest(variable, variables, cutoff=0.85):
            raise SettingsError(f"{variable} is not a setting: {_nearest(variable, list(variables))}")
        else:
            warnings.append(f"{variable} is not a setting and is ignored")
    return found, warnings


def _is_unset(value: str) -> bool:
    """Whether a variable counts as not set: wrappers leave it empty, hosts of MCP bundles as `${user_config.NAME}`."""
    return not value.strip() or re.fullmatch(r"\$\{[\w.:-]+\}", value.strip()) is not None


def _traces(environ: Mapping[str, str]) -> tuple[bool, bool]:
    """Whether OpenTelemetry's variables ask for spans, and for prompts and answers in them."""

    def variable(name: str) -> str:
        return environ.get(f"OTEL_{name}", "").strip().lower()

    exporter = variable("TRACES_EXPORTER")
    on = exporter == "otlp" or bool(variable("EXPORTER_OTLP_ENDPOINT") or variable("EXPORTER_OTLP_TRACES_ENDPOINT"))
    on = on and exporter in {"", "otlp"} and variable("SDK_DISABLED") != "true"
    return on, variable("INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT") in {"true", "span_only", "span_and_event"}


def _from_flags(flags: Mapping[str, object]) -> dict[str, tuple[object, str]]:
    for name in flags:
        if name not in SETTINGS:
            raise SettingsError(f"{name!r} is not a setting: {_nearest(name, list(SETTINGS))}")
    return {name: (value, flag_of(name)) for name, value in flags.items() if value is not None}


def flag_of(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + name.replace("_", "-")


def _nearest(name: str, names: list[str]) -> str:
    near = _closest(name, names, cutoff=0.5)
    return f"did you mean {near}?" if near else f"the settings are {', '.join(sorted(names))}"


def _closest(name: str, names: Iterable[str], *, cutoff: float) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, names, n=1, cutoff=cutoff)), None)
