"""What every HTTP request passes before Orthanc serves it: a study that is elsewhere is brought here first.

Orthanc shows a plugin method, address and arguments of a request, never its body. So this is the place for what the
address tells: WADO-RS, WADO-URI and Orthanc's own REST API for a study that is not here or not here whole.
"""

import logging
from collections.abc import Mapping

from usmed.domain.errors import UsmedError
from usmed.domain.identifiers import is_uid
from usmed.domain.pull import State
from usmed.hospital.archive import Archive
from usmed.hospital.fetch import Fetch
from usmed.hospital.pulls import Pulls
from usmed.hospital.retention import Retention

log = logging.getLogger(__name__)


class HttpFilter:
    """Lets requests through, late if need be.

    Args:
        dicomweb_root, wado_root: as in Orthanc's configuration, without slashes around them.
        remote_ids: Orthanc identifiers that lookups of the last minutes gave for studies elsewhere.
    """

    def __init__(
        self,
        *,
        archive: Archive,
        fetch: Fetch,
        pulls: Pulls,
        retention: Retention,
        dicomweb_root: str,
        wado_root: str,
        remote_ids: Mapping[str, str],
    ) -> None:
        self._archive = archive
        self._fetch = fetch
        self._pulls = pulls
        self._retention = retention
        self._studies_prefix = f"/{dicomweb_root}/studies/"
        self._search = (f"/{dicomweb_root}/series", f"/{dicomweb_root}/instances")
        self._remote_ids = remote_ids
        self._wado = f"/{wado_root}"
        self._concerned = ("/studies/", "/patients/", self._wado, self._studies_prefix, *self._search)

    def concerns(self, uri: str) -> bool:
        """Tell whether a GET of this address may be about a study elsewhere. Costs next to nothing."""
        return uri.startswith(self._concerned)

    def admit(self, uri: str, arguments: Mapping[str, str], agent: str | None) -> bool:
        """Return False to refuse a GET: when what would be served is only a part of a study.

        Args:
            agent: for whom a study may be brought from another hospital; None for somebody who may not have that.
        """
        if uri.startswith("/studies/"):
            return self._orthanc_study(uri, agent)
        if uri.startswith(self._studies_prefix):
            return self._bring(uri[len(self._studies_prefix) :].partition("/")[0], agent)
        if uri.startswith("/patients/") and not self._pulls.nothing_arriving:
            return self._orthanc_patient(uri, agent)
        if uri.startswith(self._wado) and "studyUID" in arguments:
            return self._bring(arguments["studyUID"], agent)
        if uri in self._search:
            return self._bring(arguments.get("StudyInstanceUID", arguments.get("0020000D", "")), agent)
        return True

    def _orthanc_study(self, uri: str, agent: str | None) -> bool:
        orthanc_id, _, rest = uri[len("/studies/") :].partition("/")
        study = self._pulls.arriving(orthanc_id) or self._remote_ids.get(orthanc_id)
        if study is None or rest.startswith(("labels", "metadata")):
            return True
        return self._bring(study, agent)

    def _orthanc_patient(self, uri: str, agent: str | None) -> bool:
        orthanc_id, _, rest = uri[len("/patients/") :].partition("/")
        study = self._pulls.arriving(orthanc_id)
        if study is None or not rest.startswith(("archive", "media")):
            return True
        return self._bring(study, agent)

    def _bring(self, study_instance_uid: str, agent: str | None) -> bool:
        if not is_uid(study_instance_uid):
            return True
        self._retention.used(study_instance_uid)
        if self._pulls.arriving(study_instance_uid) is None and self._archive.study(study_instance_uid):
            return True
        if agent is None:
            # What is not here stays away; what is only half here is not shown as if it were whole.
            return self._pulls.arriving(study_instance_uid) is None
        try:
            row = self._fetch.study(study_instance_uid, agent)
        except UsmedError as error:
            log.error("study %s could not be fetched: %s", study_instance_uid, error)
            return self._pulls.arriving(study_instance_uid) is None
        if row is None or row.state is State.COMPLETE:
            return True
        log.warning("study %s is not served: only a part is here (%s)", study_instance_uid, row.reason or row.state)
        # Nothing here at all: Orthanc says by itself that it does not have it.
        return not row.arrived and not self._archive.study(study_instance_uid)
