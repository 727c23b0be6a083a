"""Orthanc's routes that send images away, each behind the consent check of `usmed.hospital.outbound`.

Own destinations go through as ever. For a foreign one every study is decided; if one may not go, nothing goes.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from usmed.domain.errors import PeerDataError, RefusedError
from usmed.domain.study_record import is_date
from usmed.hospital.archive import Archive, Study
from usmed.hospital.filing import header_of, other_numbers_of
from usmed.hospital.orthanc_host import rest
from usmed.hospital.orthanc_host.http import Answer, HttpRequest
from usmed.hospital.outbound import Kind, Outbound
from usmed.hospital.settings_reader import modality_allows_get

STOW_ALIAS = "usmed-checked-"
"""Prefix of the second name under which the DICOMweb plugin knows a foreign server. Requests that passed the check go
to that name, because the address with the real name is ours; no request from outside may use it."""

_EXPORTING_JOBS = {"DicomModalityStore", "OrthancPeerStore", "DicomWebStowClient", "PushTransfer"}


class GuardedRoutes:
    """The routes and what they do.

    Args:
        outbound: the check.
        dicomweb_root: as in Orthanc's configuration, without slashes around it.
        dicomweb_servers: `DicomWeb.Servers` of Orthanc's configuration.
        modalities_changed: called after a modality was added, changed or removed.
    """

    def __init__(
        self,
        outbound: Outbound,
        archive: Archive,
        dicomweb_root: str,
        dicomweb_servers: Mapping[str, Any],
        modalities_changed: Callable[[], None],
    ) -> None:
        self._outbound = outbound
        self._archive = archive
        self._dicomweb_root = dicomweb_root
        self._dicomweb_servers = dicomweb_servers
        self._modalities_changed = modalities_changed

    def routes(self) -> list[tuple[str, str, Callable[[HttpRequest], Answer]]]:
        """Return regular expressions of addresses, each with the methods that it knows, and its handler."""
        root = self._dicomweb_root
        modality, peer = Kind.MODALITY, Kind.PEER
        return [
            ("/modalities/([^/]+)", "GET,PUT,DELETE", self._modality),
            ("/modalities/([^/]+)/store", "POST", lambda request: self._store(request, modality)),
            ("/modalities/([^/]+)/store-straight", "POST", lambda request: self._store_straight(request, modality)),
            ("/peers/([^/]+)/store", "POST", lambda request: self._store(request, peer)),
            ("/peers/([^/]+)/store-straight", "POST", lambda request: self._store_straight(request, peer)),
            ("/jobs/([^/]+)/resubmit", "POST", self._resubmit),
            (f"/{root}/servers/((?!{STOW_ALIAS})[^/]+)/stow", "POST", self._stow),
        ]

    def _store(self, request: HttpRequest, kind: Kind) -> Answer:
        resources, body = _resources(request.body)
        self._outbound.check_resources(self._outbound.destination(kind, request.groups[0]), resources, request.agent)
        return Answer(200, rest.post(request.uri, body))

    def _store_straight(self, request: HttpRequest, kind: Kind) -> Answer:
        destination = self._outbound.destination(kind, request.groups[0])
        if not destination.own:
            self._outbound.check_studies(destination, [self._study_of(request.body)], request.agent)
        return Answer(200, rest.post(request.uri, request.body))

    def _stow(self, request: HttpRequest) -> Answer:
        name = request.groups[0]
        resources, body = _resources(request.body)
        self._outbound.check_resources(self._outbound.destination(Kind.DICOMWEB, name), resources, request.agent)
        if name not in self._dicomweb_servers:
            # The plugin does not give away the password of a server that was added by PUT.
            raise RefusedError(
                "runtime-server",
                f"{name} is not under DicomWeb.Servers of Orthanc's configuration; images can be sent to it once it is",
            )
        alias = f"/{self._dicomweb_root}/servers/{quote(STOW_ALIAS + name)}"
        # Each time: the plugin forgets it when it reads its configuration, which it does after we have started.
        rest.put_to_plugins(alias, json.dumps(_long_form(self._dicomweb_servers[name])))
        return Answer(200, rest.post_to_plugins(f"{alias}/stow", body))

    def _modality(self, request: HttpRequest) -> Answer:
        """Changing a modality must not open C-GET, which nothing checks, to a foreign system."""
        if request.method == "GET":
            return Answer(200, rest.get(request.uri))
        if request.method == "DELETE":
            rest.delete(request.uri)
            self._modalities_changed()
            return Answer(200, b"", "text/plain")
        name = request.groups[0]
        if not self._outbound.destination(Kind.MODALITY, name).own and modality_allows_get(_parsed(request.body)):
            raise RefusedError(
                "foreign-get",
                f'{name} is not in Usmed.Own.Modalities, so it needs "AllowGet": false in the long form'
                ' {"AET": ..., "Host": ..., "Port": ..., "AllowGet": false}',
            )
        answer = rest.put(request.uri, request.body)
        self._modalities_changed()
        return Answer(200, answer)

    def _resubmit(self, request: HttpRequest) -> Answer:
        job = rest.get_json(f"/jobs/{request.groups[0]}")
        if job.get("Type") in _EXPORTING_JOBS:
            raise RefusedError(
                "resubmit", "a job that sends images is not repeated: send them anew, so that consent is checked"
            )
        return Answer(200, rest.post(request.uri, request.body))

    def _study_of(self, dicom: bytes) -> Study:
        """Return the study of a file that need not be here; with all its modalities, as far as it is."""
        header = header_of(dicom)
        uid = header["StudyInstanceUID"]
        modalities = {header["Modality"]} if header["Modality"] else set[str]()
        return Study(
            orthanc_id="",
            study_instance_uid=uid,
            patient_id=header["PatientID"],
            issuer=header["IssuerOfPatientID"],
            birth_date=header["PatientBirthDate"],
            sex=header["PatientSex"],
            study_date=header["StudyDate"] if is_date(header["StudyDate"]) else "",
            accession_number="",
            modalities=tuple(sorted(modalities.union(*(one.modalities for one in self._archive.study(uid))))),
            labels=frozenset(),
            instances=1,
            other_identifiers=tuple(other_numbers_of(dicom)),
        )


def _long_form(server: Any) -> dict[str, Any]:
    """Return a server's configuration as an object, also one given as `["url", "user", "password"]`.

    Source: Orthanc Book, DICOMweb plugin.
    """
    if isinstance(server, dict):
        return server
    return dict(zip(("Url", "Username", "Password"), [server] if isinstance(server, str) else server, strict=False))


def _resources(body: bytes) -> tuple[list[str], str]:
    """Return the Orthanc identifiers that a store request names (Orthanc Book, "Sending one resource").

    The second value is the body to pass on: written anew, so that Orthanc cannot read something else in it than what
    was checked (a member that is there twice, say).

    Raises:
        PeerDataError: it names none.
    """
    text = body.decode("utf-8", "replace").strip()
    document: Any = _parsed(body) if text[:1] in ("{", "[", '"') else text
    found = document.get("Resources", []) if isinstance(document, dict) else document
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not found or not all(isinstance(one, str) and one for one in found):
        raise PeerDataError("the body names no resource to send")
    return found, json.dumps(document)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise PeerDataError("the body is not JSON") from error
