"""From the raw value of a setting, and where it was found, to the value that it means. All raise SettingsError.

A raw value is what TOML, an environment variable or a flag gives; a value that was parsed already may be given, too.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rlm_mcp.bucket_address import parse_bucket
from rlm_mcp.errors import SettingsError
from rlm_mcp.redact import Secret
from rlm_mcp.settings.types import MOST, MOST_SECONDS, ToolServer, shown
from rlm_mcp.spending import Price

OPENAI_BASE_URL = "https://api.openai.com/v1"


def parse_text(raw: object, source: str) -> str:
    """A text that is not empty."""
    if isinstance(raw, str) and raw.strip() and "\0" not in raw:
        return raw.strip()
    raise SettingsError(f"{source} is {shown(raw)}: write a text that is not empty")


def parse_secret(raw: object, source: str) -> Secret:
    """An API key, which errors do not show."""
    text = (raw.reveal() if isinstance(raw, Secret) else str(raw)).strip()
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise SettingsError(f"{source} contains a character that cannot be in an API key: copy the key again")
    return Secret(text)


def parse_store(raw: object, source: str) -> Secret:
    """The URL of a database, which errors do not show: it may hold a password."""
    text = (raw.reveal() if isinstance(raw, Secret) else str(raw)).strip()
    if not text.startswith(("postgresql://", "postgres://")) or not text.isprintable():
        raise SettingsError(
            f"{source} is not the address of a Postgres database: write postgresql://USER:PASSWORD@HOST/DATABASE"
        )
    return Secret(text)


def parse_blobs(raw: object, source: str) -> str:
    """The address of a bucket, in which errors show nothing that may be secret."""
    text = parse_text(raw, source)
    parse_bucket(text, source)
    return text


def parse_s3_sources(raw: object, source: str) -> tuple[str, ...]:
    """Addresses of buckets from a list, or from a text with commas between them; "none" is the empty list."""
    parts = raw.split(",") if isinstance(raw, str) else raw
    found = [str(part).strip() for part in parts if str(part).strip()] if isinstance(parts, list | tuple) else []
    if found == ["none"]:
        return ()
    sentence = f"{source} is not a list of buckets: write none, or addresses such as s3://BUCKET/PREFIX"
    if not found:
        raise SettingsError(sentence)
    try:
        for part in found:
            parse_bucket(part, source)
    except SettingsError as error:
        raise SettingsError(sentence) from error
    return tuple(found)


def parse_url(raw: object, source: str) -> str:
    """The address of an endpoint, without its paths for completions."""
    text = parse_text(raw, source).rstrip("/")
    try:
        parts = urlsplit(text)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise SettingsError(f"{source} is {shown(text)}, which is not a URL: write, for example, {OPENAI_BASE_URL}")
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


def parse_path(raw: object, source: str) -> Path:
    """A path, in which ~ is the home of the user."""
    if isinstance(raw, Path):
        return raw.expanduser()
    return Path(parse_text(raw, source)).expanduser()


def parse_paths(raw: object, source: str) -> tuple[Path, ...]:
    """Directories from a list, or from a text in which the platform's path separator stands between them."""
    parts = raw.split(os.pathsep) if isinstance(raw, str) else raw
    if not isinstance(parts, list | tuple):
        raise SettingsError(f"{source} is {shown(raw)}: write directories with {os.pathsep!r} between them")
    return tuple(parse_path(part, source) for part in parts if str(part).strip())


def parse_hosts(raw: object, source: str) -> tuple[str, ...]:
    """Names of hosts from a list, or from a text with commas or blanks between them; "none" is the empty list."""
    parts = re.split(r"[,\s]+", raw.strip()) if isinstance(raw, str) else raw
    if parts in (["none"], ("none",)):
        return ()
    if isinstance(parts, list | tuple) and parts and all(re.fullmatch(r"\*|(\*\.)?[\w.:-]+", str(p)) for p in parts):
        return tuple(str(part).lower() for part in parts)
    raise SettingsError(f"{source} is {shown(raw)}: write none, *, or hosts such as github.com,*.example.org")


def parse_networks(raw: object, source: str) -> tuple[str, ...]:
    """Networks in CIDR notation from a list, or from a text with commas or blanks between them."""
    from ipaddress import ip_network

    parts = [part for part in re.split(r"[,\s]+", raw) if part] if isinstance(raw, str) else raw
    try:
        if isinstance(parts, list | tuple):
            return tuple(str(ip_network(str(part), strict=False)) for part in parts)
    except ValueError:
        pass
    raise SettingsError(f"{source} is {shown(raw)}: write networks such as 10.1.0.0/16,fd00::/8")


def package_names(raw: object, source: str) -> tuple[str, ...]:
    """Names from a list, or from a text with commas or blanks between them. Raises SettingsError."""
    parts = re.split(r"[,\s]+", raw.strip()) if isinstance(raw, str) else raw
    if isinstance(parts, list | tuple) and parts and all(re.fullmatch(r"\w[\w.-]*", str(part)) for part in parts):
        return tuple(str(part).lower() for part in parts)
    raise SettingsError(f"{source} is {shown(raw)}: write none, data, or names of packages with commas between them")


def parse_flag(raw: object, source: str) -> bool:
    """True or false, as a word or a number too."""
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(raw, bool):
        return raw
    if (value := words.get(str(raw).strip().lower())) is not None:
        return value
    raise SettingsError(f"{source} is {shown(raw)}: write true or false")


def parse_number(raw: object, source: str) -> float:
    """A number of 0 or more."""
    try:
        value = float(raw) if isinstance(raw, str | int | float) and not isinstance(raw, bool) else math.nan
    except (ValueError, OverflowError):
        value = math.nan
    if 0 <= value <= MOST:
        return value
    raise SettingsError(f"{source} is {shown(raw)}: write a number of 0 or more, for example 0.50")


def parse_seconds(raw: object, source: str) -> float:
    """A number of seconds that a timer takes."""
    value = parse_number(raw, source)
    if value > MOST_SECONDS:
        raise SettingsError(f"{source} is {shown(raw)}: write a number of seconds up to {MOST_SECONDS:,}")
    return value


def parse_whole(raw: object, source: str) -> int:
    """A whole number of 0 or more."""
    value = parse_number(raw, source)
    if value != int(value):
        raise SettingsError(f"{source} is {shown(raw)}: write a whole number")
    return int(value)


def parse_count(raw: object, source: str) -> int:
    """A whole number of 1 or more."""
    value = parse_whole(raw, source)
    if value < 1:
        raise SettingsError(f"{source} is {shown(raw)}: write a whole number of 1 or more")
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


def parse_tools(raw: object, source: str) -> dict[str, ToolServer]:
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


def parse_prices(raw: object, source: str) -> dict[str, Price]:
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
    raise SettingsError(f"{source} gives {model!r} the price {shown(row)}: {shape}")
