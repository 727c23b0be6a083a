"""Requests as a member of the region signs them, sent by hand: what an honest node would, and what it would not."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import requests

from support.region import Hospital, Hub
from usmed.domain.canonical import canonical_json
from usmed.domain.region import HUB
from usmed.domain.request_signature import sign_request

GET_ONE = object()
"""Stands for the access ticket that the sender gets for these numbers, or null if it gets none."""

LOOKUP, MANIFEST, INSTANCES = (f"/federation/v1/{one}" for one in ("lookup", "manifest", "instances"))


def send(
    sender: Hospital,
    receiver: Hospital | Hub,
    path: str,
    document: Any,
    *,
    late: timedelta = timedelta(),
    signed: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    method: str = "POST",
) -> requests.Response:
    """Send a JSON document, signed with the sender's key.

    Args:
        late: how long ago it says it was signed.
        signed: arguments of `sign_request` that differ from what is sent.
        headers: to be sent instead of the signature.
    """
    body = canonical_json(complete(sender, document))
    member = HUB if isinstance(receiver, Hub) else receiver.id
    arguments: dict[str, Any] = {
        "sender": sender.id,
        "receiver": member,
        "method": method,
        "target": path,
        "body": body,
        "now": datetime.now(UTC) - late,
        "jti": secrets.token_urlsafe(18),
        **(signed or {}),
    }
    key = arguments.pop("key", sender.key)
    authorization = {"Authorization": sign_request(key, **arguments)}
    return requests.request(
        method,
        address_of(receiver) + path,
        data=body,
        headers={"Content-Type": "application/json", **(authorization if headers is None else headers)},
        verify=str(receiver.certificate_file),
        timeout=30,
    )


def complete(sender: Hospital, document: Any) -> Any:
    """Return a document of this module with the access ticket that the sender gets for it."""
    if not isinstance(document, dict) or document.get("ticket") is not GET_ONE:
        return document
    numbers = [(one["issuer"], one["value"]) for one in document["identifiers"]]
    return document | {"ticket": sender.ticket(*numbers) if numbers else None}


def address_of(member: Hospital | Hub) -> str:
    """Return where a member listens for the region."""
    port = member.port if isinstance(member, Hub) else member.federation_port
    return f"https://{member.address}:{port}"


def lookup(
    identifiers: list[tuple[str, str]], *, study: str = "", level: str = "STUDY", **keys: str
) -> dict[str, Any]:
    """Return the document of a lookup at another hospital."""
    return {
        **of_study(study, identifiers),
        "level": level,
        "keys": keys,
        "tags": ["StudyInstanceUID", "PatientName"],
        "case_sensitive": True,
    }


def of_study(study: str, identifiers: list[tuple[str, str]], purpose: str = "TREAT") -> dict[str, Any]:
    """Return the document that asks for a study's manifest."""
    return {
        "identifiers": [{"issuer": issuer, "value": value} for issuer, value in identifiers],
        "study_instance_uid": study,
        "purpose": purpose,
        "ticket": GET_ONE,
    }
