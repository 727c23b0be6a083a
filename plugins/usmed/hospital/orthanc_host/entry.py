"""Starts the plugin inside Orthanc: checks everything, then registers the callbacks."""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orthanc

from usmed.domain.errors import UsmedError
from usmed.domain.route_table import METHODS
from usmed.hospital.node import Node
from usmed.hospital.orthanc_host import http
from usmed.hospital.orthanc_host.archive import OrthancArchive
from usmed.hospital.orthanc_host.dicom_find import DicomFind
from usmed.hospital.orthanc_host.explorer import explorer_script
from usmed.hospital.orthanc_host.guarded_routes import STOW_ALIAS, GuardedRoutes
from usmed.hospital.orthanc_host.http_filter import HttpFilter
from usmed.hospital.orthanc_host.logs import forward_logs
from usmed.hospital.orthanc_host.matching import Matching
from usmed.hospital.orthanc_host.modalities import Modalities
from usmed.hospital.orthanc_host.move import DicomMove
from usmed.hospital.orthanc_host.qido import JSON_TYPE, QidoStudies, base_url, to_multipart_xml
from usmed.hospital.orthanc_host.rest_find import RestFind
from usmed.hospital.orthanc_host.safe_end import end_with_the_interpreter, keep_and_register
from usmed.hospital.regional_find import RegionalFind
from usmed.hospital.settings import AutomaticPull
from usmed.hospital.settings_reader import checks_passwords, read_settings
from usmed.hospital.staff.gate import Gate, Refusals, is_disguised
from usmed.hospital.staff.log_ins import OrthancLogIns
from usmed.hospital.staff.rules import dicomweb_root, roles, route_table
from usmed.hospital.wiring import create_node

log = logging.getLogger(__name__)

SWITCH_S = 0.0005


def start() -> None:
    """Register everything.

    Raises:
        ConfigurationError: a setting is wrong. Orthanc then does not start.
    """
    # Embedded, Python leaves this signal alone, and a peer that hangs up would end the whole Orthanc.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # Debian's DCMTK leaves Nagle's algorithm on, which with delayed acknowledgements (RFC 1122 §4.2.3.2) holds every
    # C-FIND and C-STORE up by 40 ms and more. DCMTK reads this variable at each association.
    os.environ.setdefault("TCP_NODELAY", "1")
    # A request must not wait 5 ms, Python's default, for a background thread that computes.
    sys.setswitchinterval(SWITCH_S)
    forward_logs()
    configuration = json.loads(orthanc.GetConfiguration())
    settings = read_settings(configuration, "Orthanc's configuration")
    # Orthanc reads a relative path from the folder of its configuration, and makes the folder only after us.
    storage = Path(orthanc.GetConfigurationPath()).parent / configuration.get("StorageDirectory", "OrthancStorage")
    storage.mkdir(parents=True, exist_ok=True)
    if not settings.federated:
        log.warning("no hospital is configured: this node stands alone, as a plain Orthanc")
        return
    matching = Matching(configuration)
    archive = OrthancArchive(matching, None if configuration.get("StorageCompression") else storage)
    node = create_node(settings, archive, storage, configuration.get("RegisteredUsers", {}))
    # Here and not when Orthanc has started: a node that the others cannot reach must not look as if it were one.
    node.listener.bind()
    node.intake.bind()
    _register(node, archive, matching, configuration)


def _register(node: Node, archive: OrthancArchive, matching: Matching, configuration: Mapping[str, Any]) -> None:
    settings = node.settings
    own_aet = configuration.get("DicomAet", "ORTHANC")
    dicomweb = configuration.get("DicomWeb", {})
    root = dicomweb_root(dicomweb)
    log_ins = node.log_ins or OrthancLogIns(
        roles(settings.Staff.RolesFile)[0],
        settings.Staff.Users,
        settings.Staff.OtherUsers,
        settings.Staff.Anonymous,
        checked=checks_passwords(configuration),
    )
    gate = Gate(route_table(dicomweb), log_ins.person, Refusals(node.refused, time.monotonic))
    server = http.HttpServer(gate, tls=configuration.get("SslEnabled") is True)
    regional = RegionalFind(
        naming=node.naming,
        archive=archive,
        lookup=node.lookup,
        fetch=node.fetch,
        pulls=node.pulls,
        hospital_name=node.hospital_name,
        own_aet=own_aet,
    )
    modalities = Modalities(settings.Own.Modalities)
    keep_and_register(orthanc.RegisterFindCallback2, DicomFind(regional, modalities.is_own, matching))
    move = DicomMove(
        naming=node.naming,
        archive=archive,
        lookup=node.lookup,
        fetch=node.fetch,
        pulls=node.pulls,
        outbound=node.outbound,
        retention=node.retention,
        is_own=modalities.is_own,
        wait_s=settings.Pull.WaitSeconds,
    )
    keep_and_register(orthanc.RegisterMoveCallback3, move.create, move.size, move.apply, move.free)
    find = RestFind(regional)
    server.register("/tools/find", lambda request: http.Answer(200, find(request.body, request.agent)), methods="POST")
    qido = QidoStudies(regional)
    # POST to the same address, STOW-RS, reaches the DICOMweb plugin before it reaches us.
    server.register(f"/{root}/studies", lambda request: _qido(qido, configuration, request), methods="GET,POST")
    guarded = GuardedRoutes(node.outbound, archive, root, dicomweb.get("Servers", {}), modalities.changed)
    for pattern, methods, handler in guarded.routes():
        server.register(pattern, handler, methods=methods)
    server.mount("/usmed", node.pages.wsgi_app)
    http_filter = HttpFilter(
        archive=archive,
        fetch=node.fetch,
        pulls=node.pulls,
        retention=node.retention,
        dicomweb_root=root,
        wado_root=dicomweb.get("WadoRoot", "/wado").strip("/"),
        remote_ids=find.remote_ids,
    )
    alias = f"/{root}/servers/{STOW_ALIAS}"
    # The filter gets the method as the SDK's plain number.
    verbs = {int(getattr(orthanc.HttpMethod, name)): name for name in METHODS}

    def admitted(uri: str, request: Mapping[str, Any]) -> bool:
        # Every request passes here, so most of them do so at once.
        address, arguments, headers = request.get("ip", ""), request.get("get", {}), request.get("headers", {})
        if is_disguised(arguments, headers):
            return False
        server.comes_from(address)
        if uri.startswith("/usmed/") or uri == "/usmed":
            # Asks the gate itself, and says in words why not.
            return True
        method = verbs.get(int(request["method"]), "")
        person, refused = gate.decide(method, uri, headers, address)
        if refused or uri.startswith(alias):
            return False
        if method != "GET" or not http_filter.concerns(uri):
            return True
        return http_filter.admit(uri, arguments, person.name if "region.fetch" in person.permissions else None)

    def filter_request(uri: str, **request: Any) -> bool:
        try:
            return admitted(uri, request)
        except Exception:
            # Whatever goes wrong: what is not allowed is denied.
            log.exception("a request was denied, because the gate has failed")
            return False

    keep_and_register(orthanc.RegisterIncomingHttpRequestFilter, filter_request)
    orthanc.ExtendOrthancExplorer(explorer_script())
    keep_and_register(orthanc.RegisterOnChangeCallback, _Changes(node))


def _qido(qido: QidoStudies, configuration: Mapping[str, Any], request: http.HttpRequest) -> http.Answer:
    found = qido.search(request.arguments, base_url(request.headers, configuration), request.agent)
    if "xml" in request.headers.get("accept", "") and "json" not in request.headers["accept"]:
        kind, body = to_multipart_xml(found)
        return http.Answer(200, body, kind)
    return http.Answer(200, json.dumps(found, ensure_ascii=False).encode("utf-8"), JSON_TYPE)


class _Changes:
    """What Orthanc tells on its own thread. Nothing here may take long."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def __call__(self, change: Any, level: Any, resource: str) -> None:
        kinds = orthanc.ChangeType
        if change == kinds.STABLE_STUDY:
            self._node.feed.stable(resource)
            self._node.oversight.statistician.stable(resource)
        elif change == kinds.NEW_STUDY:
            if self._node.settings.Pull.Automatic is AutomaticPull.ARRIVAL:
                self._node.arrivals.study_began(resource)
        elif change == kinds.DELETED and level == orthanc.ResourceType.STUDY:
            self._deleted(resource)
        elif change == kinds.ORTHANC_STARTED:
            self._node.start()
        elif change == kinds.ORTHANC_STOPPED:
            self._node.stop()
            end_with_the_interpreter()

    def _deleted(self, study_orthanc_id: str) -> None:
        self._node.feed.deleted()
        try:
            self._node.pulls.deleted(study_orthanc_id)
        except UsmedError as error:
            log.error("a deleted guest copy is still listed: %s", error)
