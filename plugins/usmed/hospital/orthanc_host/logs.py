"""Our log records in Orthanc's log."""

import logging

import orthanc


class _OrthancHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        text = f"usmed: {self.format(record)}"
        if record.levelno >= logging.ERROR:
            orthanc.LogError(text)
        elif record.levelno >= logging.WARNING:
            orthanc.LogWarning(text)
        else:
            orthanc.LogInfo(text)


def forward_logs() -> None:
    """Send records of `usmed` to Orthanc's log; what other libraries log from warnings up too."""
    handler = _OrthancHandler()
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("usmed").setLevel(logging.INFO)
