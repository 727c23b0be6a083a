"""The signature: exactly the document that was shown, signed by the person's passkey, becomes a record.

The document is kept from the moment it is shown; the challenge is its SHA-256 (`domain.consent_record.challenge`).
"""

import json
import threading
from typing import Any

from flask import Flask, Response, url_for
from sqlalchemy import Connection

from usmed.domain.consent_record import ProofKind, challenge
from usmed.domain.enrolment import needed_for
from usmed.domain.errors import PeerDataError
from usmed.domain.fhir_consent import consent_from_fhir, identifier_from_fhir
from usmed.hub.enrolments import as_sent
from usmed.hub.invitations import PORTAL
from usmed.hub.portal.conflicts import limited_by
from usmed.hub.portal.sessions import Draft
from usmed.hub.portal.views import in_words, shown_consents
from usmed.hub.portal.web import (
    Services,
    Sorry,
    check_counter,
    check_failures,
    counting_failures,
    failed,
    json_answer,
    json_body,
    page,
    person,
    session,
)
from usmed.hub.registry import Kept
from usmed.hub.requests import UNKNOWN
from usmed.platform.delivery_store import Item
from usmed.platform.passkeys import credential_of

FIRST_ROUND_S = 3.0
"""How long a signature waits for key servers: most have it by then, and the next page can say so."""


def add(app: Flask, services: Services) -> None:
    """Add these pages."""
    ceremonies = services.ceremonies

    @app.get("/sign/<id>")
    def sign(id: str) -> Response:
        draft = _draft(id)
        document = draft.document
        consent = consent_from_fhir(document["resource"], id=document["id"], version=document["version"])
        others = shown_consents(services, person())
        now = services.clock()
        stronger = {one.id for one in limited_by(consent, [each.consent for each in others], now)}
        weaker = {each.stored.id for each in others if each.speaks and limited_by(each.consent, [consent], now)}
        return page(
            "sign.html", draft=draft, consent=consent, description=in_words(services, person(), consent),
            stronger=[one for one in others if one.stored.id in stronger],
            weaker=[one for one in others if one.stored.id in weaker],
            exact=json.dumps(document, ensure_ascii=False, indent=2, sort_keys=True),
        )  # fmt: skip

    @app.post("/sign/<id>/options")
    def sign_options(id: str) -> Response:
        json_body(set())
        check_failures(services)
        return json_answer(ceremonies.signing(challenge(_draft(id).document), [_known()]))

    @app.post("/sign/<id>")
    def signed(id: str) -> Response:
        check_failures(services)
        draft, response = _draft(id), json_body({"response"})["response"]
        try:
            ceremonies.signed(challenge(draft.document), response, [_known()])
        except PeerDataError as error:
            failed(services)
            raise Sorry(400, "sign-failed", reason=str(error)) from error
        _take(draft, {"document": draft.document, "proof": _proof(response)}, response)
        return json_answer({"next": url_for("consent", id=draft.document["id"])})

    def _take(draft: Draft, record: dict[str, Any], response: Any) -> None:
        mine = person()
        patient = identifier_from_fhir(draft.document["resource"]["patient"]["identifier"])
        needed = needed_for([one.enrolment for one in mine.enrolments], mine.credential, patient)
        # The same enrolment may have come twice, signed twice; one of them proves it.
        tokens = as_sent({one.enrolment: one for one in mine.enrolments if one.enrolment in needed}.values())
        item = Item(draft.document["id"], draft.document["version"], record, tokens)

        in_time = True

        def on_its_way(connection: Connection, kept: Kept) -> None:
            check_counter(services, mine.credential.id, response, connection)
            # Also what the hub holds already, from whomever: only key servers that have it need no proof of it.
            services.deliveries.pass_on(connection, record, kept.version, tokens)
            # With the consent or not at all: a request that stayed open would be answered twice.
            nonlocal in_time
            answered = draft.request and services.requests.answer_in(connection, draft.request, mine.numbers)
            in_time = not draft.request or answered is not None
            services.sessions.drop_in(connection, draft)

        with counting_failures(services):
            problems = services.registry.take(PORTAL, [record], taken=on_its_way)
        if problems:
            raise Sorry(409, "not-taken", reason="; ".join(problems))
        if not in_time:
            # The request ended meanwhile: the consent holds all the same.
            services.refused(UNKNOWN)
        _begin(services, item)

    def _draft(id: str) -> Draft:
        draft = services.sessions.draft(session(), id)
        if draft is None:
            raise Sorry(404, "draft-over")
        return draft

    def _known() -> Any:
        mine = person().credential
        return credential_of(mine.id, mine.public_key)


def _proof(response: dict[str, Any]) -> dict[str, str]:
    """Return a browser's answer as a proof (`domain.consent_record`); it was checked."""
    signed = response["response"]
    return {
        "kind": ProofKind.PASSKEY.value,
        "credential": response["rawId"],
        "authenticator_data": signed["authenticatorData"],
        "client_data": signed["clientDataJSON"],
        "signature": signed["signature"],
    }


def _begin(services: Services, item: Item) -> None:
    """Bring it, for a moment: it is on its way in any case, and a server that is silent must keep nobody waiting."""
    first = threading.Thread(target=services.deliveries.deliver, args=(item,), name="first delivery", daemon=True)
    first.start()
    first.join(FIRST_ROUND_S)
