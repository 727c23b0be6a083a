"""What a node tells about itself to Prometheus: counts and ids, nothing about patients."""

from collections.abc import Callable, Mapping

from usmed.hospital.oversight import Oversight
from usmed.platform.audit_log import AuditLog
from usmed.platform.metrics import Metrics

_COUNTED = {
    "lookups": ("usmed_lookups_total", "Lookups from inside the hospital, by outcome.", "outcome"),
    "hits": ("usmed_lookup_hits_total", "Lookups that found studies elsewhere.", ""),
    "asked": ("usmed_lookups_of_others_total", "Lookups by other hospitals.", "hospital"),
    "pulls": ("usmed_pulls_total", "Studies fetched from other hospitals, by how it ended.", "state"),
    "pulled-bytes": ("usmed_pulled_bytes_total", "Bytes fetched, by the hospital they came from.", "hospital"),
    "first-image": ("usmed_first_images_total", "Fetched studies by seconds to the first image, at most.", "seconds"),
    "first-image-ms": ("usmed_first_image_milliseconds_total", "Milliseconds to the first images, together.", ""),
    "denied": ("usmed_denied_total", "What was denied, by kind of event.", "event"),
    "releases": ("usmed_releases_total", "Releases to other hospitals.", "hospital"),
    "studies": ("usmed_studies_total", "Studies that have arrived, by modality.", "modality"),
    "studies-of": ("usmed_studies_by_hospital_total", "Studies that have arrived, by hospital.", "hospital"),
    "bytes": ("usmed_study_bytes_total", "Bytes of studies that have arrived, by modality.", "modality"),
    "bytes-of": ("usmed_study_bytes_by_hospital_total", "Bytes of studies that have arrived, by hospital.", "hospital"),
}


def node_metrics(oversight: Oversight, audit: AuditLog, unreachable: Callable[[], Mapping[str, object]]) -> Metrics:
    """Return what is told.

    Args:
        unreachable: the hospitals that do not answer now.
    """
    metrics = Metrics()
    store = oversight.statistician.store

    def counts(measure: str, labelled: bool) -> Callable[[], dict[tuple[str, ...], float]]:
        return lambda: {
            ((label,) if labelled else ()): float(value)
            for (name, label), value in store.totals().items()
            if name == measure
        }

    for measure, (name, help, label) in _COUNTED.items():
        metrics.total(name, help, counts(measure, bool(label)), *([label] if label else []))
    for measure, name, help in (
        ("storage-bytes", "usmed_storage_bytes", "What the archive's files take."),
        ("storage-free", "usmed_storage_free_bytes", "What is free where the archive stores."),
    ):
        metrics.gauge(name, help, lambda measure=measure: float(store.totals().get((measure, ""), 0)))  # type: ignore[misc]
    metrics.gauge(
        "usmed_unreachable_hospitals", "Hospitals that do not answer now.", lambda: float(len(unreachable()))
    )
    metrics.gauge("usmed_audit_sequence", "Number of the last audit record.", lambda: float(audit.head().count))
    if (syslog := oversight.syslog) is not None:
        metrics.gauge(
            "usmed_syslog_waiting", "Audit records that the syslog server has not got.",
            lambda: float(syslog.state().waiting),
        )  # fmt: skip
    return metrics
