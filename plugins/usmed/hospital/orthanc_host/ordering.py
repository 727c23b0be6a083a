"""`OrderBy` of `/tools/find` over local and remote answers together.

Orthanc has ordered its own; what the region adds is put in between. Source: Orthanc Book, "Performing queries",
`OrderBy`: a list of `{"Type", "Key", "Direction"}`, the first being the most significant.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydicom.datadict import keyword_for_tag

type Entry = tuple[Any, Mapping[str, Any]]
"""An answer, and its tags by keyword."""


def order_tags(order_by: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keywords of the tags by which it is ordered. What is no tag (metadata) remote answers do not have."""
    return [_keyword(str(one["Key"])) for one in order_by if _is_tag(one)]


def in_order(entries: Sequence[Entry], order_by: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the answers in order.

    Args:
        entries: the local ones, in Orthanc's order, then the remote ones. Equals stay as they are.
        order_by: as in the request, which Orthanc has accepted.
    """
    ordered = list(entries)
    for one in reversed(order_by):
        if _is_tag(one):
            ordered.sort(key=_key(one), reverse=str(one.get("Direction", "ASC")).upper() == "DESC")
    return [answer for answer, _ in ordered]


def _is_tag(one: Mapping[str, Any]) -> bool:
    return str(one.get("Type", "")).startswith("DicomTag")


def _key(one: Mapping[str, Any]) -> Callable[[Entry], tuple[bool, float, str]]:
    name, kind = _keyword(str(one["Key"])), str(one["Type"])

    def key(entry: Entry) -> tuple[bool, float, str]:
        text = str(entry[1].get(name) or "")
        if kind == "DicomTag":
            return (bool(text), 0.0, text)
        try:
            return (True, float(text), "")
        except ValueError:
            return (False, 0.0, "")

    return key


def _keyword(name: str) -> str:
    if len(name) == 9 and name[4] == ",":
        return keyword_for_tag(int(name[:4] + name[5:], 16)) or name
    return name
