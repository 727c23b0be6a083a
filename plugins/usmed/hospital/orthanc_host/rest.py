"""Orthanc's own REST API called from inside, with errors turned into ours."""

import json
from typing import Any

import orthanc

from usmed.hospital.archive import ArchiveError

UNKNOWN_RESOURCE = 17
"""OrthancPluginErrorCode_UnknownResource (Orthanc plugin SDK)."""


class OrthancError(ArchiveError):
    """Orthanc refused or failed; `code` is its error code, `name` its name for it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"Orthanc: {message}")
        self.code = code
        self.name = message


def get(uri: str) -> bytes:
    """GET a built-in route.

    Raises:
        OrthancError: it failed.
    """
    return _call(orthanc.RestApiGet, uri)


def get_json(uri: str) -> Any:
    """GET a built-in route that answers JSON."""
    return json.loads(get(uri))


def post(uri: str, body: bytes | str) -> bytes:
    """POST to a built-in route."""
    return _call(orthanc.RestApiPost, uri, body)


def post_json(uri: str, document: Any) -> Any:
    """POST JSON to a built-in route that answers JSON."""
    return json.loads(post(uri, json.dumps(document)))


def put(uri: str, body: bytes | str) -> bytes:
    """PUT to a built-in route."""
    return _call(orthanc.RestApiPut, uri, body)


def delete(uri: str) -> None:
    """DELETE a built-in resource."""
    try:
        orthanc.RestApiDelete(uri)
    except orthanc.OrthancException as error:
        raise _translated(error) from error


def _call(function: Any, *arguments: Any) -> bytes:
    try:
        answer: bytes = function(*arguments)
    except orthanc.OrthancException as error:
        raise _translated(error) from error
    return answer


def _translated(error: Any) -> OrthancError:
    code, message = error.args[0], error.args[1]
    return OrthancError(int(code), str(message))


def post_to_plugins(uri: str, body: bytes | str) -> bytes:
    """POST to a route of another plugin. Never one that we took: it would call us again, without end."""
    return _call(orthanc.RestApiPostAfterPlugins, uri, body)


def put_to_plugins(uri: str, body: bytes | str) -> bytes:
    """PUT to a route of another plugin."""
    return _call(orthanc.RestApiPutAfterPlugins, uri, body)
