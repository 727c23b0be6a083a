"""The OpenAPI description, which is also what requests are checked against: one statement of what is accepted."""

from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import yaml

from usmed.domain.errors import PeerDataError


class InvalidRequestError(PeerDataError):
    """A body is JSON, but not what the operation takes; `faults` lists each with its path."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("the body is not what this operation takes")
        self.faults = faults


def description_bytes() -> bytes:
    """Return openapi.yaml."""
    return files(__package__).joinpath("openapi.yaml").read_bytes()


@cache
def description() -> dict[str, Any]:
    """Return openapi.yaml, parsed."""
    document: dict[str, Any] = yaml.safe_load(description_bytes())
    return document


def check(schema: str, body: Any) -> None:
    """Check a body against a schema of the description, named as in `components/schemas`.

    Raises:
        InvalidRequestError: it does not fit.
    """
    faults = sorted(_validator(schema).iter_errors(body), key=lambda fault: fault.json_path)
    if faults:
        raise InvalidRequestError([f"{fault.json_path}: {fault.message[:200]}" for fault in faults[:50]])


@cache
def _validator(schema: str) -> Any:
    return jsonschema.Draft202012Validator(_inlined(description()["components"]["schemas"][schema]))


def _inlined(schema: Any) -> Any:
    """Put in place of each reference what it refers to: following one costs more than the check itself."""
    if isinstance(schema, list):
        return [_inlined(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(description()["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    return {name: _inlined(one) for name, one in schema.items()}
