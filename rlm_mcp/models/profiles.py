"""Window, price and strength of a model by its name and host. The figures are in profiles.toml."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from rlm_mcp.models.base import Profile
from rlm_mcp.spending import Price

# Models of up to this many billions of parameters get the prompt for weak models. Measured at 1.5; above, a guess.
WEAK_BILLIONS = 14.0

_DATE = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|\d{6}|\d{4}|latest|preview)$")
_BILLIONS = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z])")


def profile_of(
    name: str,
    base_url: str,
    *,
    prices: Mapping[str, Price] | None = None,
    window_tokens: int | None = None,
    billions: float | None = None,
) -> Profile:
    """Returns the profile of model `name` at `base_url`.

    `prices` are the user's and take precedence over the table, whose prices apply only at the provider's own host.
    `window_tokens` and `billions` (of parameters) come from the user or the server. An unknown model counts as strong.
    """
    profile = _known(name, base_url) or _by_size(name, billions)
    if window_tokens is not None:
        outputs = min(profile.max_output_tokens, max(1, window_tokens // 2))
        profile = replace(profile, window_tokens=window_tokens, max_output_tokens=outputs)
    if prices and (price := prices.get(name)) is not None:
        profile = replace(
            profile,
            usd_per_mtok_in=price.usd_per_mtok_in,
            usd_per_mtok_out=price.usd_per_mtok_out,
            usd_per_mtok_cached_in=None,
        )
    return profile


def is_known(name: str, base_url: str) -> bool:
    """Tells whether the table has this model."""
    return _known(name, base_url) is not None


def is_local(base_url: str) -> bool:
    """Tells whether a base URL is on this machine or in its private network."""
    host = urlsplit(base_url).hostname or ""
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        return ip_address(host).is_private
    except ValueError:
        return False


def _known(name: str, base_url: str) -> Profile | None:
    bare = _bare(name)
    host = urlsplit(base_url).hostname or ""
    for owner, models in _table().items():
        if (row := models.get(bare) or models.get(_DATE.sub("", bare))) is not None:
            return _profile(row, priced=host == owner)
    return None


def _profile(row: Mapping[str, Any], *, priced: bool) -> Profile:
    profile = Profile(
        window_tokens=row["window"], max_output_tokens=row["output"], strength=row.get("strength", "strong")
    )
    if not priced:
        return profile
    return replace(
        profile,
        usd_per_mtok_in=row["usd_in"],
        usd_per_mtok_out=row["usd_out"],
        usd_per_mtok_cached_in=row.get("usd_cached_in"),
    )


def _by_size(name: str, billions: float | None) -> Profile:
    sizes = [billions] if billions is not None else [float(size) for size in _BILLIONS.findall(name.lower())]
    return Profile(strength="weak" if sizes and max(sizes) <= WEAK_BILLIONS else "strong")


def _bare(name: str) -> str:
    """Strips a gateway's prefix and suffix from a name: `openai/gpt-5:free` becomes `gpt-5`."""
    return name.rsplit("/", 1)[-1].split(":", 1)[0].lower()


@cache
def _table() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads(files(__package__).joinpath("profiles.toml").read_text("utf-8"))
