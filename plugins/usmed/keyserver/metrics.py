"""What a key server tells about itself to Prometheus: counts and ids, nothing about patients."""

from collections.abc import Callable

from usmed.keyserver.exchange import Exchange
from usmed.platform.audit_log import AuditLog
from usmed.platform.log_heads import LogAlarm
from usmed.platform.metrics import Counter, Metrics


def describe_server(
    metrics: Metrics, *, exchange: Exchange, alarms: Callable[[], list[LogAlarm]], audit: AuditLog
) -> tuple[Counter, Counter]:
    """Make the metrics of a key server; return the counters of requests (route, status) and decisions (code)."""

    def succeeded() -> dict[str, float]:
        states = exchange.states().items()
        return {peer: state.succeeded.timestamp() if state.succeeded else 0.0 for peer, state in states}

    def failures() -> dict[str, float]:
        return {peer: float(state.failures) for peer, state in exchange.states().items()}

    def open_alarms() -> dict[str, float]:
        servers = [one.server for one in alarms()]
        return {server: float(servers.count(server)) for server in [*exchange.states(), *servers]}

    requests = metrics.counter("usmed_requests_total", "Requests by route and HTTP status.", "route", "status")
    decisions = metrics.counter(
        "usmed_ticket_decisions_total", "Decisions about tickets: signed, or the code of the refusal.", "code"
    )
    metrics.gauge(
        "usmed_exchange_succeeded_timestamp_seconds",
        "When a key server last answered this one (Unix time); 0 if it has not since this one started.",
        succeeded,
        "peer",
    )
    metrics.gauge("usmed_exchange_failures", "How often a key server did not answer, in a row.", failures, "peer")
    metrics.gauge(
        "usmed_log_alarms",
        "Alarms that nobody has acknowledged, about logs that do not continue what was seen of them.",
        open_alarms,
        "server",
    )
    metrics.gauge("usmed_audit_sequence", "Number of the last audit record.", lambda: float(audit.head().count))
    return requests, decisions
