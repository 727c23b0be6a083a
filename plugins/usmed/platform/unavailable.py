"""What every service says while its database does not answer."""

import logging
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from usmed.platform.signed_http import error_body
from usmed.platform.storage import StorageError

_log = logging.getLogger(__name__)


def while_storage_answers(guard: WSGIApplication) -> WSGIApplication:
    """Answer 503 when nonces or the audit log cannot be written: nothing is served unrecorded."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return guard(environ, start_response)
        except StorageError as error:
            _log.error("not served: %s", error)
            body = error_body("unavailable", "the database does not answer; try again later")
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            start_response("503 Service Unavailable", headers)
            return [body]

    return application
