"""The user's settings: flags override environment variables, which override ~/.config/rlm-mcp/config.toml.

Every setting has one name, such as `max_usd`: it is the key in the file, the flag (--max-usd) if there is one and,
in capitals after RLM_MCP_, the environment variable (RLM_MCP_MAX_USD). Any other name is refused, with the nearest
valid one as a suggestion. A setting is a field of `Settings` and a row of `SETTINGS`; the origin of every value is
recorded.

A server reads its settings before it answers its client, so this file imports little, and modules that few values need
where these are parsed.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rlm_mcp.errors import SettingsError
from rlm_mcp.redact import Secret, ellipsize
from rlm_mcp.spending import REQUESTED_LIMITS, Price, RunLimits

PREFIX = "RLM_MCP_"
OPENAI_BASE_URL = "https://api.openai.com/v1"
# The names that other programs use for the same settings; they apply where ours are not set.
FALLBACK_VARIABLES = {"base_url": "OPENAI_BASE_URL", "api_key": "OPENAI_API_KEY"}

MOST, MOST_SECONDS = 10**18, 10**9
"""The largest numbers that settings and limits may have: 64-bit integers, and what timers take (31 years)."""

DEFAULT_LIMITS = RunLimits(max_sub_calls=1_000, max_seconds=1_800.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolServer:
    """Another MCP server on stdio: how it is started, and which of its tools code of a run may call."""

    command: tuple[str, ...]
    allow: tuple[str, ...]
    env: Mapping[str, Secret] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, parsed. `limits` are the defaults of a run.

    `sources` holds the origin of each value that was set; `warnings` lists variables that have no effect.
    """

    data_dir: Path
    cache_dir: Path
    model: str | None = None
    sub_model: str | None = None
    base_url: str | None = None
    sub_base_url: str | None = None
    api_key: Secret = field(default_factory=lambda: Secret(""))
    sub_api_key: Secret = field(default_factory=lambda: Secret(""))
    roots: tuple[Path, ...] | None = None
    """None: anywhere for the user's own commands, `local_roots` for a client on stdio, nowhere over HTTP."""
    fetch_hosts: tuple[str, ...] | None = None
    """Names, `*.example.org` or `*`. None: any host for the user's own clients and commands, none over HTTP."""
    fetch_networks: tuple[str, ...] = ()
    """Networks whose addresses may be fetched from though they are not public."""
    fetch_with_keys: bool = True
    """Whether ssh, and so the keys of this user, may be used; not over HTTP."""
    s3_sources: tuple[str, ...] = ()
    """`s3://BUCKET/PREFIX` of objects that may be sources, for all clients and commands. Empty: none."""
    quota_bytes: int | None = None
    """Size of one store. None: as much as the disk holds, or over HTTP `tenant_application.QUOTA_BYTES`."""
    packages: tuple[str, ...] | None = None
    """("none",), ("data",) or names. None: the packages that were added, else the prebuilt ones, else none."""
    prices: Mapping[str, Price] = field(default_factory=dict)
    window_tokens: int | None = None
    sub_window_tokens: int | None = None
    sub_call_cache: bool = True
    summaries: bool = False
    """Whether a strong root model sums up a dialogue that gets too long for its window; else turns become lines."""
    limits: RunLimits = DEFAULT_LIMITS
    """If `max_iterations` is None, the profile of the root model decides."""
    tools: Mapping[str, ToolServer] = field(default_factory=dict)
    """Not over HTTP, where each worker is without network and other programs."""
    confirm_usd: float | None = None
    """None: the client's user is never asked before a run."""
    longest_wait: float | None = None
    """Seconds of one tool call. None: `server/client_limits.py` knows them by the client's name."""
    traces: bool = False
    """Whether the OTEL_* variables ask for spans of runs; OpenTelemetry's SDK reads their destination itself."""
    trace_content: bool = False
    """Whether these spans include prompts, code and answers."""
    store: Secret = field(default_factory=lambda: Secret(""))
    """URL of the Postgres database of a cluster, which may hold a password. Empty: SQLite and files of this machine."""
    blobs: str | None = None
    """`s3://BUCKET/PREFIX` of a cluster."""
    text_cache_bytes: int | None = None
    """Of the texts of buckets that each process keeps in `cache_dir`."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Setting to origin: "--model", "RLM_MCP_MODEL" or "model in ~/.config/rlm-mcp/config.toml, line 3"."""
    warnings: tuple[str, ...] = ()

    def limits_for(self, asked: RunLimits) -> RunLimits:
        """The limits of one run that asks for these. A limit that the user has set can be lowered, never raised."""
        merged: dict[str, Any] = {name: self._limit(name, getattr(asked, name)) for name in REQUESTED_LIMITS}
        return replace(self.limits, **merged)

    def _limit(self, name: str, asked: float | None) -> float | None:
        own: float | None = getattr(self.limits, name)
        if asked is None:
            return own
        most = MOST_SECONDS if name == "max_seconds" else MOST
        if not 0 <= asked <= most:  # NaN is neither
            raise SettingsError(f"{name}={_shown(asked)} is not a limit: give a number from 0 to {most:,}")
        return min(asked, own) if own is not None and name in self.sources else asked

    def value_of(self, name: str) -> object:
        """The value of the setting of this name."""
        return getattr(self.limits if name in RunLimits.__slots__ else self, name)


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


# --- the settings in effect ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveSetting:
    """The value of one setting, as JSON with secrets masked, and its origin."""

    name: str
    value: Any
    origin: str


def effective_settings(settings: Settings) -> list[EffectiveSetting]:
    """All settings, in the order of `SETTINGS`."""
    rows = []
    for name, setting in SETTINGS.items():
        value = _masked(settings.value_of(name))
        default = f"default: {setting.default}" if setting.default and not value else "default"
        rows.append(EffectiveSetting(name=name, value=value, origin=settings.sources.get(name, default)))
    return rows


def _masked(value: object) -> Any:
    match value:
        case Secret():
            return "***" if value else None
        case Price():
            return [value.usd_per_mtok_in, value.usd_per_mtok_out]
        case ToolServer():
            return {"command": value.command[0], "allow": list(value.allow), "env": list(value.env)}
        case Path():
            return str(value)
        case tuple():
            return [_masked(part) for part in value]
        case Mapping():
            return {name: _masked(part) for name, part in value.items()}
    return value


# --- file, environment and flags ----------------------------------------------------------------------------------


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


# --- parsers: from a raw value and its source to the parsed value -------------------------------------------------


def _parsed(setting: "Setting", raw: object, source: str) -> object:
    try:
        return setting.parse(raw, source)
    except (ValueError, OverflowError, RecursionError, RuntimeError) as error:
        raise SettingsError(f"{source} has a value that cannot be used ({error}): correct it") from error


def _shown(value: object) -> str:
    try:
        return ellipsize(repr(value), 100)
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits, or nested too deep
        return f"a value of type {type(value).__name__} that is too large to show"


def _text(raw: object, source: str) -> str:
    if isinstance(raw, str) and raw.strip() and "\0" not in raw:
        return raw.strip()
    raise SettingsError(f"{source} is {_shown(raw)}: write a text that is not empty")


def _secret(raw: object, source: str) -> Secret:
    text = (raw.reveal() if isinstance(raw, Secret) else str(raw)).strip()
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise SettingsError(f"{source} contains a character that cannot be in an API key: copy the key again")
    return Secret(text)


def _store(raw: object, source: str) -> Secret:
    """The URL of a database, which errors do not show: it may hold a password."""
    text = (raw.reveal() if isinstance(raw, Secret) else str(raw)).strip()
    if not text.startswith(("postgresql://", "postgres://")) or not text.isprintable():
        raise SettingsError(
            f"{source} is not the address of a Postgres database: write postgresql://USER:PASSWORD@HOST/DATABASE"
        )
    return Secret(text)


def _blobs(raw: object, source: str) -> str:
    text = _text(raw, source)
    if re.fullmatch(r"s3://[\w.-]+(/[\w./=-]*)?", text) is None:
        raise SettingsError(f"{source} is not the address of a bucket: write s3://BUCKET/PREFIX")
    return text


def _s3_sources(raw: object, source: str) -> tuple[str, ...]:
    """Addresses of buckets from a list, or from a text with commas between them; "none" is the empty list."""
    parts = raw.split(",") if isinstance(raw, str) else raw
    found = [str(part).strip() for part in parts if str(part).strip()] if isinstance(parts, list | tuple) else []
    if found == ["none"]:
        return ()
    if found and all(re.fullmatch(r"s3://[A-Za-z0-9][\w.-]{1,254}(/[^?@]*)?", part) for part in found):
        return tuple(found)
    raise SettingsError(f"{source} is not a list of buckets: write none, or addresses such as s3://BUCKET/PREFIX")


def _url(raw: object, source: str) -> str:
    text = _text(raw, source).rstrip("/")
    try:
        parts = urlsplit(text)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise SettingsError(f"{source} is {_shown(text)}, which is not a URL: write, for example, {OPENAI_BASE_URL}")
    if parts.username or parts.password:
        raise SettingsError(
            f"{source} contains credentials: set RLM_MCP_API_KEY to the key, and leave only the address"
        )
    if parse_qs(parts.query, keep_blank_values=True).keys() - {"api-version"}:
        raise SettingsError(
            f"{source} has a query other than api-version: set RLM_MCP_API_KEY to the key if it is one,"
            " and leave only the address"
        )
    address = text.partition("?")[0].rstrip("/").removesuffix("/chat/completions").removesuffix("/completions")
    return f"{address}?{parts.query}" if parts.query else address


def _path(raw: object, source: str) -> Path:
    if isinstance(raw, Path):
        return raw.expanduser()
    return Path(_text(raw, source)).expanduser()


def _paths(raw: object, source: str) -> tuple[Path, ...]:
    """Directories from a list, or from a text in which the platform's path separator stands between them."""
    parts = raw.split(os.pathsep) if isinstance(raw, str) else raw
    if not isinstance(parts, list | tuple):
        raise SettingsError(f"{source} is {_shown(raw)}: write directories with {os.pathsep!r} between them")
    return tuple(_path(part, source) for part in parts if str(part).strip())


def _hosts(raw: object, source: str) -> tuple[str, ...]:
    """Names of hosts from a list, or from a text with commas or blanks between them; "none" is the empty list."""
    parts = re.split(r"[,\s]+", raw.strip()) if isinstance(raw, str) else raw
    if parts in (["none"], ("none",)):
        return ()
    if isinstance(parts, list | tuple) and parts and all(re.fullmatch(r"\*|(\*\.)?[\w.:-]+", str(p)) for p in parts):
        return tuple(str(part).lower() for part in parts)
    raise SettingsError(f"{source} is {_shown(raw)}: write none, *, or hosts such as github.com,*.example.org")


def _networks(raw: object, source: str) -> tuple[str, ...]:
    """Networks in CIDR notation from a list, or from a text with commas or blanks between them."""
    from ipaddress import ip_network

    parts = [part for part in re.split(r"[,\s]+", raw) if part] if isinstance(raw, str) else raw
    try:
        if isinstance(parts, list | tuple):
            return tuple(str(ip_network(str(part), strict=False)) for part in parts)
    except ValueError:
        pass
    raise SettingsError(f"{source} is {_shown(raw)}: write networks such as 10.1.0.0/16,fd00::/8")


def package_names(raw: object, source: str) -> tuple[str, ...]:
    """Names from a list, or from a text with commas or blanks between them. Raises SettingsError."""
    parts = re.split(r"[,\s]+", raw.strip()) if isinstance(raw, str) else raw
    if isinstance(parts, list | tuple) and parts and all(re.fullmatch(r"\w[\w.-]*", str(part)) for part in parts):
        return tuple(str(part).lower() for part in parts)
    raise SettingsError(f"{source} is {_shown(raw)}: write none, data, or names of packages with commas between them")


def _flag(raw: object, source: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(raw, bool):
        return raw
    if (value := words.get(str(raw).strip().lower())) is not None:
        return value
    raise SettingsError(f"{source} is {_shown(raw)}: write true or false")


def _number(raw: object, source: str) -> float:
    try:
        value = float(raw) if isinstance(raw, str | int | float) and not isinstance(raw, bool) else math.nan
    except (ValueError, OverflowError):
        value = math.nan
    if 0 <= value <= MOST:
        return value
    raise SettingsError(f"{source} is {_shown(raw)}: write a number of 0 or more, for example 0.50")


def _seconds(raw: object, source: str) -> float:
    value = _number(raw, source)
    if value > MOST_SECONDS:
        raise SettingsError(f"{source} is {_shown(raw)}: write a number of seconds up to {MOST_SECONDS:,}")
    return value


def _whole(raw: object, source: str) -> int:
    value = _number(raw, source)
    if value != int(value):
        raise SettingsError(f"{source} is {_shown(raw)}: write a whole number")
    return int(value)


def _count(raw: object, source: str) -> int:
    value = _whole(raw, source)
    if value < 1:
        raise SettingsError(f"{source} is {_shown(raw)}: write a whole number of 1 or more")
    return value


def _object(raw: object, source: str, shape: str) -> Mapping[Any, Any]:
    """An object; a text is parsed as JSON. Errors do not show it: it may hold secrets."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"{source} is not JSON ({error}): {shape}") from error
    if not isinstance(raw, Mapping):
        raise SettingsError(f"{source} is not an object: {shape}")
    return raw


def _tools(raw: object, source: str) -> dict[str, ToolServer]:
    """MCP servers by name; a text is parsed as JSON."""
    shape = 'write {"NAME": {"command": ["PROGRAM", "ARGUMENT"], "allow": ["TOOL"], "env": {"KEY": "VALUE"}}}'
    rows = _object(raw, source, shape)
    return {str(name): _tool_server(name, row, source, shape) for name, row in rows.items()}


def _tool_server(name: object, row: object, source: str, shape: str) -> ToolServer:
    if isinstance(row, ToolServer):
        return row
    facts = row if isinstance(row, Mapping) else {}
    command, allow, env = facts.get("command"), facts.get("allow"), facts.get("env", {})
    is_named = re.fullmatch(r"[a-z_][a-z0-9_]{0,30}", str(name)) is not None
    lists = all(
        isinstance(part, list | tuple) and part and all(isinstance(text, str) for text in part)
        for part in (command, allow)
    )
    if not is_named or not lists or not isinstance(env, Mapping) or facts.keys() - {"command", "allow", "env"}:
        raise SettingsError(f"{source} has no usable server {str(name)[:40]!r}: {shape}")  # a value may be a secret
    return ToolServer(
        command=tuple(command or ()),
        allow=tuple(allow or ()),
        env={str(key): Secret(str(value)) for key, value in env.items()},
    )


def _prices(raw: object, source: str) -> dict[str, Price]:
    """Prices as `{"model": [in, out]}` or `{"model": {"in": …, "out": …}}`; a text is parsed as JSON."""
    shape = 'write {"model": [dollars per million tokens in, out]}'
    return {str(model): _price(model, row, source, shape) for model, row in _object(raw, source, shape).items()}


def _price(model: object, row: object, source: str, shape: str) -> Price:
    if isinstance(row, Price):
        return row
    if isinstance(row, Mapping):
        row = [row.get("in", row.get("input")), row.get("out", row.get("output"))]
    if isinstance(row, list | tuple) and len(row) == 2:
        numbers = [n for n in row if isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n <= MOST]
        if len(numbers) == 2:
            return Price(usd_per_mtok_in=float(numbers[0]), usd_per_mtok_out=float(numbers[1]))
    raise SettingsError(f"{source} gives {model!r} the price {_shown(row)}: {shape}")


# --- the settings -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How one setting is parsed, and what the documentation says about it."""

    parse: Callable[[object, str], object]
    meaning: str
    default: str = ""
    """The default in words, if the value alone does not explain it."""
    has_flag: bool = False


SETTINGS: Mapping[str, Setting] = {
    "model": Setting(
        parse=_text, meaning="root model of a run", default="the first model of a local server", has_flag=True
    ),
    "sub_model": Setting(parse=_text, meaning="model of sub-calls", default="the same model", has_flag=True),
    "base_url": Setting(
        parse=_url,
        meaning="OpenAI-compatible endpoint; OPENAI_BASE_URL is read too",
        default="a local server, or OpenAI if a key is set",
        has_flag=True,
    ),
    "sub_base_url": Setting(parse=_url, meaning="endpoint of sub-calls", default="the same endpoint"),
    "api_key": Setting(parse=_secret, meaning="API key of the endpoint; OPENAI_API_KEY is read too", default="none"),
    "sub_api_key": Setting(parse=_secret, meaning="API key of the endpoint of sub-calls", default="none"),
    "data_dir": Setting(parse=_path, meaning="directory of contexts and runs", has_flag=True),
    "cache_dir": Setting(
        parse=_path, meaning="directory of the compiled sandbox and of cached sub-call answers", has_flag=True
    ),
    "roots": Setting(
        parse=_paths,
        meaning="directories whose files may be registered, with the path separator between them",
        default="home and working directory; none over HTTP; any for your own commands",
        has_flag=True,
    ),
    "fetch_hosts": Setting(
        parse=_hosts,
        meaning="hosts from which sources may be fetched by address, with commas between them, or none, or *",
        default="any; none over HTTP",
        has_flag=True,
    ),
    "fetch_networks": Setting(
        parse=_networks,
        meaning="networks that are not public from which sources may be fetched, with commas between them",
        default="none",
        has_flag=True,
    ),
    "s3_sources": Setting(
        parse=_s3_sources,
        meaning="s3:// addresses of the objects that may be registered, with commas between them",
        default="none",
        has_flag=True,
    ),
    "quota_bytes": Setting(
        parse=_count,
        meaning="disk space that contexts may use, in bytes",
        default="no limit; over HTTP 20 GiB for each tenant",
        has_flag=True,
    ),
    "store": Setting(
        parse=_store,
        meaning="postgresql:// address of the database that the machines of a cluster share",
        default="SQLite and files in data_dir",
        has_flag=True,
    ),
    "blobs": Setting(
        parse=_blobs,
        meaning="s3:// address of the bucket that the machines of a cluster share",
        default="files in data_dir",
        has_flag=True,
    ),
    "text_cache_bytes": Setting(
        parse=_count,
        meaning="disk space in cache_dir for texts fetched from buckets, in bytes, of each process",
        default="20 GiB, or a quarter of the free disk if that is less",
    ),
    "packages": Setting(
        parse=package_names,
        meaning="packages of the sandbox: none, data (of rlm-mcp-data), or names with commas between them",
        default="those of `rlm-mcp packages`, else those of rlm-mcp-data, else none",
        has_flag=True,
    ),
    "prices": Setting(
        parse=_prices,
        meaning="JSON object: model to dollars per million tokens [in, out]",
        default="the table that ships with rlm-mcp",
        has_flag=True,
    ),
    "window_tokens": Setting(
        parse=_count,
        meaning="context window of the model, in tokens",
        default="asked from the server, or known by the model's name",
    ),
    "sub_window_tokens": Setting(
        parse=_count, meaning="context window of the sub-model, in tokens", default="likewise"
    ),
    "sub_call_cache": Setting(parse=_flag, meaning="whether answers of sub-calls are cached and used again"),
    "summaries": Setting(
        parse=_flag,
        meaning="whether the root model sums up its own dialogue where that gets too long; else old turns become lines",
    ),
    "max_usd": Setting(parse=_number, meaning="limit on the dollars of one run", default="no limit", has_flag=True),
    "max_tokens": Setting(parse=_whole, meaning="limit on the tokens of one run", default="no limit", has_flag=True),
    "max_sub_calls": Setting(parse=_whole, meaning="limit on the sub-calls of one run", has_flag=True),
    "max_seconds": Setting(parse=_seconds, meaning="limit on the seconds of one run", has_flag=True),
    "max_iterations": Setting(
        parse=_count,
        meaning="limit on the iterations of a run's root model",
        default="depends on the strength of the model",
        has_flag=True,
    ),
    "max_depth": Setting(
        parse=_whole, meaning="limit on the depth of recursive runs", default="chosen by the router", has_flag=True
    ),
    "concurrency": Setting(parse=_count, meaning="limit on the model calls of one run that are in flight at once"),
    "tools": Setting(
        parse=_tools,
        meaning="table: name of an MCP server to its command, the tools that code of a run may call (allow), and env",
        default="none; not over HTTP",
    ),
    "confirm_usd": Setting(
        parse=_number,
        meaning="dollars; a run that may cost more is confirmed by the client's user first, if the client can ask",
        default="never ask",
        has_flag=True,
    ),
    "longest_wait": Setting(
        parse=_seconds,
        meaning="seconds that one call may wait for a run; below the time-out that the client was given for calls",
        default="known by the client's name, else 55",
    ),
}
