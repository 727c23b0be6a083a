"""Where and of what the person wants to be told: addresses, each confirmed by a code that was sent there."""

from typing import Any

from flask import Flask, Response, g, redirect, request, url_for

from usmed.domain.contact import CHOSEN, CODE_LIFE, Channel
from usmed.domain.errors import PeerDataError, RefusedError
from usmed.hub.contacts import ADDRESS_BUSY, CODE_OVER, TOO_MANY_CODES, WRONG_CODE, Owner
from usmed.hub.portal.web import Services, check_failures, failed, not_there, page, person

SAID = {
    WRONG_CODE: "fault-code-wrong", CODE_OVER: "fault-code-over", TOO_MANY_CODES: "fault-codes-many",
    ADDRESS_BUSY: "fault-address-busy",
}  # fmt: skip
"""What is said at the field itself, by the refusal's code."""


def add(app: Flask, services: Services) -> None:
    """Add these pages."""
    contacts = services.contacts

    @app.get("/notices")
    def notices() -> Response:
        return _page()

    @app.post("/notices/<channel>")
    def address_entered(channel: str) -> Any:
        way, typed = _channel(channel), request.form.get("address", "")
        try:
            contacts.enter(owner(), way, typed, g.language)
        except PeerDataError as error:
            services.refused(str(error))
            return _page(400, {channel: f"fault-{way}"}, {channel: typed})
        except RefusedError as error:
            return _refused(error, channel, {channel: typed})
        return _back(channel)

    @app.post("/notices/<channel>/<id>/code")
    def code_typed(channel: str, id: str) -> Any:
        way = _channel(channel)
        check_failures(services)
        try:
            contacts.confirm(owner(), id, request.form.get("code", ""))
        except PeerDataError as error:
            services.refused(str(error))
            return _page(400, {way: "fault-code"})
        except RefusedError as error:
            failed(services)
            return _refused(error, way)
        return _back(channel)

    @app.post("/notices/<channel>/<id>/again")
    def code_again(channel: str, id: str) -> Any:
        way = _channel(channel)
        try:
            contacts.send_again(owner(), id, g.language)
        except RefusedError as error:
            return _refused(error, way)
        return _back(channel)

    @app.post("/notices/<channel>/<id>/remove")
    def address_removed(channel: str, id: str) -> Any:
        contacts.remove(owner(), id)
        return _back(channel)

    @app.post("/notices/topics")
    def topics_chosen() -> Any:
        contacts.choose(owner(), [one for one in CHOSEN if one in request.form.getlist("topic")], g.language)
        return redirect(url_for("notices", kept=""))

    def _page(status: int = 200, faults: dict[str, str] | None = None, typed: dict[str, str] | None = None) -> Response:
        held = contacts.of(owner())
        chosen = next((one.topics for one in held), frozenset(CHOSEN))
        return page(
            "notices.html", status, channels=contacts.channels, faults=faults or {}, typed=typed or {},
            held={way: [one for one in held if one.channel is way] for way in contacts.channels},
            topics=CHOSEN, chosen=chosen, confirmed=any(one.confirmed for one in held),
            minutes=int(CODE_LIFE.total_seconds()) // 60, kept="kept" in request.args,
        )  # fmt: skip

    def _refused(error: RefusedError, channel: str, typed: dict[str, str] | None = None) -> Response:
        if error.code not in SAID:
            raise error
        if error.code in (TOO_MANY_CODES, ADDRESS_BUSY):
            # The others are in the audit log with what was counted.
            services.refused(f"{error.code}: {error}")
        return _page(403, {channel: SAID[error.code]}, typed)

    def _channel(name: str) -> Channel:
        if name not in contacts.channels:
            raise not_there()
        return Channel(name)

    def _back(channel: str) -> Any:
        return redirect(url_for("notices", _anchor=channel))


def owner() -> Owner:
    """Return whose addresses whoever is logged in sees."""
    me = person()
    return Owner(me.own, me.credential.id.hex() if me.guardian else "")
