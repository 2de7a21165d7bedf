"""Every setting: how it is parsed, and what the documentation says about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rlm_mcp.settings.parsers import (
    package_names,
    parse_blobs,
    parse_count,
    parse_flag,
    parse_hosts,
    parse_networks,
    parse_number,
    parse_path,
    parse_paths,
    parse_prices,
    parse_s3_sources,
    parse_seconds,
    parse_secret,
    parse_store,
    parse_text,
    parse_tools,
    parse_url,
    parse_whole,
)


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
        parse=parse_text, meaning="root model of a run", default="the first model of a local server", has_flag=True
    ),
    "sub_model": Setting(parse=parse_text, meaning="model of sub-calls", default="the same model", has_flag=True),
    "base_url": Setting(
        parse=parse_url,
        meaning="OpenAI-compatible endpoint; OPENAI_BASE_URL is read too",
        default="a local server, or OpenAI if a key is set",
        has_flag=True,
    ),
    "sub_base_url": Setting(parse=parse_url, meaning="endpoint of sub-calls", default="the same endpoint"),
    "api_key": Setting(
        parse=parse_secret, meaning="API key of the endpoint; OPENAI_API_KEY is read too", default="none"
    ),
    "sub_api_key": Setting(parse=parse_secret, meaning="API key of the endpoint of sub-calls", default="none"),
    "data_dir": Setting(parse=parse_path, meaning="directory of contexts and runs", has_flag=True),
    "cache_dir": Setting(
        parse=parse_path, meaning="directory of the compiled sandbox and of cached sub-call answers", has_flag=True
    ),
    "roots": Setting(
        parse=parse_paths,
        meaning="directories whose files may be registered, with the path separator between them",
        default="home and working directory; none over HTTP; any for your own commands",
        has_flag=True,
    ),
    "fetch_hosts": Setting(
        parse=parse_hosts,
        meaning="hosts from which sources may be fetched by address, with commas between them, or none, or *",
        default="any; none over HTTP",
        has_flag=True,
    ),
    "fetch_networks": Setting(
        parse=parse_networks,
        meaning="networks that are not public from which sources may be fetched, with commas between them",
        default="none",
        has_flag=True,
    ),
    "s3_sources": Setting(
        parse=parse_s3_sources,
        meaning="s3:// addresses of the objects that may be registered, with commas between them",
        default="none",
        has_flag=True,
    ),
    "quota_bytes": Setting(
        parse=parse_count,
        meaning="disk space that contexts may use, in bytes",
        default="no limit; over HTTP 20 GiB for each tenant",
        has_flag=True,
    ),
    "store": Setting(
        parse=parse_store,
        meaning="postgresql:// address of the database that the machines of a cluster share",
        default="SQLite and files in data_dir",
        has_flag=True,
    ),
    "blobs": Setting(
        parse=parse_blobs,
        meaning="s3:// address of the bucket that the machines of a cluster share",
        default="files in data_dir",
        has_flag=True,
    ),
    "text_cache_bytes": Setting(
        parse=parse_count,
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
        parse=parse_prices,
        meaning="JSON object: model to dollars per million tokens [in, out]",
        default="the table that ships with rlm-mcp",
        has_flag=True,
    ),
    "window_tokens": Setting(
        parse=parse_count,
        meaning="context window of the model, in tokens",
        default="asked from the server, or known by the model's name",
    ),
    "sub_window_tokens": Setting(
        parse=parse_count, meaning="context window of the sub-model, in tokens", default="likewise"
    ),
    "sub_call_cache": Setting(parse=parse_flag, meaning="whether answers of sub-calls are cached and used again"),
    "summaries": Setting(
        parse=parse_flag,
        meaning="whether the root model sums up its own dialogue where that gets too long; else old turns become lines",
    ),
    "max_usd": Setting(
        parse=parse_number, meaning="limit on the dollars of one run", default="no limit", has_flag=True
    ),
    "max_tokens": Setting(
        parse=parse_whole, meaning="limit on the tokens of one run", default="no limit", has_flag=True
    ),
    "max_sub_calls": Setting(parse=parse_whole, meaning="limit on the sub-calls of one run", has_flag=True),
    "max_seconds": Setting(parse=parse_seconds, meaning="limit on the seconds of one run", has_flag=True),
    "max_iterations": Setting(
        parse=parse_count,
        meaning="limit on the iterations of a run's root model",
        default="depends on the strength of the model",
        has_flag=True,
    ),
    "max_depth": Setting(
        parse=parse_whole, meaning="limit on the depth of recursive runs", default="chosen by the router", has_flag=True
    ),
    "concurrency": Setting(parse=parse_count, meaning="limit on the model calls of one run that are in flight at once"),
    "tools": Setting(
        parse=parse_tools,
        meaning="table: name of an MCP server to its command, the tools that code of a run may call (allow), and env",
        default="none; not over HTTP",
    ),
    "confirm_usd": Setting(
        parse=parse_number,
        meaning="dollars; a run that may cost more is confirmed by the client's user first, if the client can ask",
        default="never ask",
        has_flag=True,
    ),
    "longest_wait": Setting(
        parse=parse_seconds,
        meaning="seconds that one call may wait for a run; below the time-out that the client was given for calls",
        default="known by the client's name, else 55",
    ),
}
