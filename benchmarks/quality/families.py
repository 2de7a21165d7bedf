"""All families by name, and the kinds of questions that models are asked."""

from collections.abc import Mapping

from benchmarks.quality import folders, messages, records
from benchmarks.quality.cases import Family, Kind

FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (*messages.FAMILIES, *records.FAMILIES, *folders.FAMILIES)
}
KINDS: tuple[Kind, ...] = (
    *dict.fromkeys(family.kind for family in FAMILIES.values()),
    folders.HANDED,
)
