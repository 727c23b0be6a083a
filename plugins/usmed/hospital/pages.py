"""The node's own addresses for people inside the hospital: the region panel, fetching, arrivals, transfers."""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from usmed.domain.errors import PeerDataError, RefusedError, UsmedError
from usmed.domain.identifiers import Naming, is_uid, orthanc_id
from usmed.domain.lookup import Level, Query, Selector
from usmed.domain.pull import UNFINISHED, State
from usmed.hospital.archive import Archive
from usmed.hospital.desk import Desk
from usmed.hospital.desk_pages import create_desk_pages
from usmed.hospital.emergencies import Emergencies
from usmed.hospital.emergency_pages import create_emergency_pages
from usmed.hospital.feed import Feed
from usmed.hospital.fetch import Fetch
from usmed.hospital.frame import create_entrance
from usmed.hospital.lookup import FederatedLookup
from usmed.hospital.oversight import Oversight
from usmed.hospital.page_requests import NO_PERMISSION, NOBODY_LOGGED_IN, agent, is_staff, json_body, permitted, text
from usmed.hospital.patient_request_pages import create_patient_request_pages, offered
from usmed.hospital.patient_requests import PatientRequests
from usmed.hospital.pulls import Pulls
from usmed.hospital.region_panel import RegionPanel, plain_reason


def create_pages(
    *,
    naming: Naming,
    archive: Archive,
    panel: RegionPanel,
    fetch: Fetch,
    pulls: Pulls,
    lookup: FederatedLookup,
    feed: Feed,
    desk: Desk,
    emergencies: Emergencies,
    requests: PatientRequests,
    staff_pages: Mapping[str, Blueprint],
    oversight: Oversight,
    stuck: Callable[[], Mapping[str, str]],
    hospital_name: Callable[[str], str],
    refused: Callable[[str, str, str], None],
) -> Flask:
    """Return the application; Orthanc's HTTP server mounts it and has authenticated whoever calls.

    Args:
        staff_pages: by the first part of their address.
        stuck: why copies that should go, or be checked, cannot, by their Study Instance UID.
        refused: writes a refusal down: from which address, who (nobody that is proved), and why.
    """
    app = Flask(__name__, static_folder=None)
    app.register_blueprint(create_desk_pages(desk), url_prefix="/consents")
    app.register_blueprint(create_emergency_pages(emergencies, naming), url_prefix="/emergencies")
    app.register_blueprint(create_patient_request_pages(requests, naming), url_prefix="/requests")
    for place, pages in staff_pages.items():
        app.register_blueprint(pages, url_prefix=f"/{place}" if place else None)
    app.register_blueprint(create_entrance())

    @app.errorhandler(UsmedError)
    def failed(error: UsmedError) -> tuple[Response, int]:
        if isinstance(error, RefusedError) and error.code in (NOBODY_LOGGED_IN, NO_PERMISSION):
            # All others are written down by whoever refuses.
            refused("inside the hospital", "", f"{request.path}: {error}")
        status = 400 if isinstance(error, PeerDataError) else 403 if isinstance(error, RefusedError) else 503
        return jsonify(error=type(error).__name__, message=str(error)), status

    @app.errorhandler(HTTPException)
    def no_page(error: HTTPException) -> Response:
        answer = jsonify(error="http", message=f"{error.name}: {request.method} {request.path}")
        answer.status_code = error.code or 500
        if isinstance(error, MethodNotAllowed):
            answer.headers["Allow"] = ",".join(sorted(error.valid_methods or ()))
        return answer

    _add_panels(app, panel, archive, requests, naming)

    @app.get("/orthanc-studies/<resource>/arriving")
    def arriving(resource: str) -> Response:
        # For a page to ask before it asks Orthanc for the study, which would answer only once the study is whole.
        uid = pulls.arriving(resource)
        row = pulls.row(uid) if uid is not None else None
        here = row is None and archive.study_by_orthanc_id(resource) is not None
        asked = Query(Level.STUDY, {"StudyInstanceUID": uid}, ("PatientName", "StudyDescription"))
        found = archive.find(asked) if uid is not None else []
        return jsonify(
            Here=here,
            Transfer=_transfer(row) if row is not None else None,
            Study=found[0].tags if found else {},
        )

    @app.post("/fetch")
    def fetch_study() -> tuple[Response, int] | Response:
        uid = json_body().get("StudyInstanceUID")
        if not isinstance(uid, str) or not is_uid(uid):
            raise PeerDataError("StudyInstanceUID: is missing or not a UID")
        row = fetch.begin(uid, agent())
        if row is None:
            here = archive.study(uid)
            if here:
                return jsonify(StudyInstanceUID=uid, State="here", OrthancStudy=here[0].orthanc_id)
            return jsonify(error="unknown", message="no hospital may give this study, or none has it"), 404
        return jsonify(_transfer(row))

    @app.post("/arrivals")
    def arrival() -> Response:
        body = json_body()
        identifier = naming.identify(text(body, "PatientID"), text(body, "IssuerOfPatientID"))
        answers = fetch.arrived(Selector(identifier=identifier), agent())
        return jsonify(
            Studies=len(answers.answers),
            Missing={hospital_name(peer): reason for peer, reason in answers.missing.items()},
        )

    @app.get("/transfers")
    def transfers() -> Response:
        named = [uid for uid in request.args.get("studies", "").split(",") if uid]
        rows = [row for row in map(pulls.row, named) if row is not None] if named else pulls.recent()
        return jsonify([_transfer(row) for row in rows])

    @app.get("/transfers/<uid>")
    def transfer(uid: str) -> tuple[Response, int] | Response:
        row = pulls.row(uid)
        if row is None:
            return jsonify(error="unknown", message="there is no such transfer"), 404
        return jsonify(_transfer(row))

    @app.get("/status")
    def status() -> Response:
        return jsonify(
            Unreachable=dict(lookup.unreachable()),
            Hub=feed.last_error or "up",
            CopiesToLookAt=stuck(),
            **oversight.status(),
        )

    def _transfer(row: Any) -> Mapping[str, Any]:
        progress = pulls.progress(row.study_instance_uid)
        running = progress is not None and progress.manifest is not None
        return {
            "StudyInstanceUID": row.study_instance_uid,
            "State": row.state.value,
            "Source": row.source,
            "SourceName": hospital_name(row.source),
            "PatientID": row.patient_id,
            "Arrived": sum(progress.verified) if running and progress is not None else row.arrived,
            "Instances": row.instances,
            "SizeBytes": row.size_bytes,
            "Attempts": row.attempts,
            "Reason": plain_reason(row.reason, row.source, hospital_name(row.source)),
            "OrthancStudy": orthanc_id(row.patient_id, row.study_instance_uid) if row.state is State.COMPLETE else "",
            "RequestedBy": row.requested_by,
            "Unfinished": row.state in UNFINISHED,
        }

    return app


def _add_panels(app: Flask, panel: RegionPanel, archive: Archive, requests: PatientRequests, naming: Naming) -> None:
    # Numbers such as 123/2024 are common.
    @app.get("/patients/<path:patient_id>")
    def patient(patient_id: str) -> Response:
        issuer = request.args.get("issuer", "")
        return jsonify(offered(panel.patient(patient_id, agent(), issuer), requests, naming, patient_id, issuer))

    @app.get("/region")
    def region() -> Response:
        keys = request.args
        number, issuer = keys.get("PatientID", ""), keys.get("IssuerOfPatientID", "")
        return jsonify(offered(panel.named(keys, agent()), requests, naming, number, issuer))

    @app.get("/orthanc-patients/<resource>")
    def orthanc_patient(resource: str) -> tuple[Response, int] | Response:
        studies = archive.parent_studies([resource])
        if not studies:
            return jsonify(error="unknown", message="there is no such patient here"), 404
        own = next((one for one in studies if not one.is_guest), studies[0])
        shown = panel.patient(own.patient_id, agent(), own.issuer)
        if requests.possible() and is_staff() and permitted("patients.enrol") and not own.is_guest:
            shown["enrol"] = f"desk/patient?{urlencode({'orthanc': resource})}"
        return jsonify(offered(shown, requests, naming, own.patient_id, own.issuer))

    @app.get("/orthanc-studies/<resource>")
    def orthanc_study(resource: str) -> tuple[Response, int] | Response:
        study = archive.study_by_orthanc_id(resource)
        if study is None:
            return jsonify(error="unknown", message="there is no such study here"), 404
        shown = panel.study(study, agent())
        return jsonify(offered(shown, requests, naming, study.patient_id, study.issuer))
