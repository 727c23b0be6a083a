"""The node's own addresses for people inside the hospital: the region panel, fetching, arrivals, transfers."""

from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Response, jsonify, request

from usmed.domain.errors import PeerDataError, UsmedError
from usmed.domain.identifiers import Naming, is_uid
from usmed.domain.lookup import Selector
from usmed.domain.pull import UNFINISHED
from usmed.hospital.archive import Archive
from usmed.hospital.feed import Feed
from usmed.hospital.fetch import Fetch
from usmed.hospital.lookup import FederatedLookup
from usmed.hospital.pulls import Pulls
from usmed.hospital.region_panel import RegionPanel


def create_pages(
    *,
    naming: Naming,
    archive: Archive,
    panel: RegionPanel,
    fetch: Fetch,
    pulls: Pulls,
    lookup: FederatedLookup,
    feed: Feed,
    hospital_name: Callable[[str], str],
) -> Flask:
    """Return the application; Orthanc's HTTP server mounts it and has authenticated whoever calls."""
    app = Flask(__name__)

    @app.errorhandler(UsmedError)
    def failed(error: UsmedError) -> tuple[Response, int]:
        return jsonify(error=type(error).__name__, message=str(error)), 400 if isinstance(error, PeerDataError) else 503

    @app.get("/patients/<patient_id>")
    def patient(patient_id: str) -> Response:
        return jsonify(panel.patient(patient_id, _agent(), request.args.get("issuer", "")))

    @app.get("/orthanc-patients/<orthanc_id>")
    def orthanc_patient(orthanc_id: str) -> tuple[Response, int] | Response:
        studies = archive.parent_studies([orthanc_id])
        if not studies:
            return jsonify(error="unknown", message="there is no such patient here"), 404
        return jsonify(panel.patient(studies[0].patient_id, _agent(), studies[0].issuer))

    @app.get("/orthanc-studies/<orthanc_id>")
    def orthanc_study(orthanc_id: str) -> tuple[Response, int] | Response:
        study = archive.study_by_orthanc_id(orthanc_id)
        if study is None:
            return jsonify(error="unknown", message="there is no such study here"), 404
        return jsonify(panel.study(study, _agent()))

    @app.post("/fetch")
    def fetch_study() -> tuple[Response, int] | Response:
        uid = _body().get("StudyInstanceUID")
        if not isinstance(uid, str) or not is_uid(uid):
            raise PeerDataError("StudyInstanceUID: is missing or not a UID")
        row = fetch.begin(uid, _agent())
        if row is None:
            here = archive.study(uid)
            if here:
                return jsonify(StudyInstanceUID=uid, State="here", OrthancStudy=here[0].orthanc_id)
            return jsonify(error="unknown", message="no hospital may give this study, or none has it"), 404
        return jsonify(_transfer(row))

    @app.post("/arrivals")
    def arrival() -> Response:
        body = _body()
        identifier = naming.identify(str(body.get("PatientID", "")), str(body.get("IssuerOfPatientID", "")))
        answers = fetch.arrived(Selector(identifier=identifier), _agent())
        return jsonify(
            Studies=len(answers.answers),
            Missing={hospital_name(peer): reason for peer, reason in answers.missing.items()},
        )

    @app.get("/transfers")
    def transfers() -> Response:
        return jsonify([_transfer(row) for row in pulls.recent()])

    @app.get("/transfers/<uid>")
    def transfer(uid: str) -> tuple[Response, int] | Response:
        row = pulls.row(uid)
        if row is None:
            return jsonify(error="unknown", message="there is no such transfer"), 404
        return jsonify(_transfer(row))

    @app.get("/status")
    def status() -> Response:
        return jsonify(Unreachable=dict(lookup.unreachable()), Hub=feed.last_error or "up")

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
            "Reason": row.reason,
            "RequestedBy": row.requested_by,
            "Unfinished": row.state in UNFINISHED,
        }

    return app


def _agent() -> str:
    return str(request.environ.get("REMOTE_USER", "http"))


def _body() -> Mapping[str, Any]:
    document = request.get_json(silent=True)
    if not isinstance(document, dict):
        raise PeerDataError("the body must be a JSON object")
    return document
