"""An actor's OpenAPI description, which is also what its requests are checked against: one statement of what is
accepted."""

import re
from collections.abc import Iterator
from functools import cache, cached_property
from importlib.resources import files
from itertools import islice
from typing import Any

import jsonschema
import yaml

from usmed.domain.errors import PeerDataError

MOST_FAULTS = 50


class InvalidRequestError(PeerDataError):
    """A body is JSON, but not what the operation takes; `faults` lists each with its path, one or more."""

    def __init__(self, faults: list[str]) -> None:
        # Where, not what: this goes into logs, and a value may be a patient's number.
        first = faults[0].partition(": ")[0]
        super().__init__(f"the body is not what this operation takes, see {first}; GET /v1/openapi.yaml describes it")
        self.faults = faults


class Description:
    """The `openapi.yaml` of one package."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._validator = cache(self._make_validator)

    def text(self) -> bytes:
        """Return it as it is."""
        return files(self._package).joinpath("openapi.yaml").read_bytes()

    @cached_property
    def document(self) -> dict[str, Any]:
        """Return it, parsed."""
        document: dict[str, Any] = yaml.safe_load(self.text())
        return document

    def body_of(self, path: str) -> str:
        """Return the name of the schema that describes what is posted to a path."""
        body = self.document["paths"][path]["post"]["requestBody"]
        return str(body["content"]["application/json"]["schema"]["$ref"]).rpartition("/")[2]

    def check(self, schema: str, body: Any) -> None:
        """Check a body against a schema, named as in `components/schemas`.

        Raises:
            InvalidRequestError: it does not fit.
        """
        validator = self._validator(schema)
        if _fits(validator.schema, body):
            return
        # A list of a hundred thousand wrong things is not looked through to its end.
        faults = sorted(islice(validator.iter_errors(body), MOST_FAULTS), key=lambda one: one.json_path)
        if faults:
            raise InvalidRequestError([f"{fault.json_path}: {fault.message[:200]}" for fault in faults])

    def _make_validator(self, schema: str) -> Any:
        return _Validator(self._inlined(self.document["components"]["schemas"][schema]))

    def _inlined(self, schema: Any) -> Any:
        """Put in place of each reference what it refers to: following one costs more than the check itself.

        Nor is anything left in that decides nothing: words for people, and a choice of which one is anything at all.
        """
        if isinstance(schema, list):
            return [self._inlined(one) for one in schema]
        if not isinstance(schema, dict):
            return schema
        if "$ref" in schema:
            return self._inlined(self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        # A property may have the name of a keyword: then a schema stands there.
        idle = {name for name, kind in (("description", str), ("examples", list)) if isinstance(schema.get(name), kind)}
        if isinstance(schema.get("anyOf"), list) and {} in schema["anyOf"]:
            idle.add("anyOf")
        return {name: self._inlined(one) for name, one in schema.items() if name not in idle}


def _fits(schema: dict[str, Any], value: Any) -> bool:
    """Tell whether it is plain that a value fits: what is known here by heart. No means: ask the library.

    The library takes 10 microseconds for each value, and every ticket has twenty of them.
    """
    if not schema:
        return True
    kind, keywords = type(value), schema.keys()
    if kind is str and schema.get("type") == "string" and keywords <= _TEXT:
        size = len(value)
        return schema.get("minLength", size) <= size <= schema.get("maxLength", size) and (
            "pattern" not in schema or re.search(schema["pattern"], value) is not None
        )
    if kind is str and keywords == _CHOICE:
        return value in schema["enum"]
    if kind is int and schema.get("type") == "integer" and keywords <= _NUMBER:
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    if kind is list and schema.get("type") == "array" and keywords <= _LIST:
        size, inner = len(value), schema.get("items", {})
        return schema.get("minItems", size) <= size <= schema.get("maxItems", size) and all(
            _fits(inner, one) for one in value
        )
    if kind is dict and schema.get("type") == "object" and keywords - _COUNTS == _OBJECT:
        members, size = schema["properties"], len(value)
        return (
            schema["additionalProperties"] is False
            and schema.get("minProperties", size) <= size <= schema.get("maxProperties", size)
            and value.keys() <= members.keys()
            and value.keys() >= set(schema["required"])
            and all(_fits(members[name], one) for name, one in value.items())
        )
    return False


_TEXT, _NUMBER = {"type", "minLength", "maxLength", "pattern"}, {"type", "minimum", "maximum"}
_CHOICE, _COUNTS = {"enum"}, {"minProperties", "maxProperties"}
_LIST, _OBJECT = {"type", "minItems", "maxItems", "items"}, {"type", "properties", "required", "additionalProperties"}


def _properties(validator: Any, properties: dict[str, Any], instance: Any, _schema: Any) -> Iterator[Any]:
    """Check the members of an object, as the library does, but for those that plainly fit."""
    if isinstance(instance, dict):
        for name, schema in properties.items():
            if name in instance and not _fits(schema, instance[name]):
                yield from validator.descend(instance[name], schema, path=name, schema_path=name)


_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"properties": _properties})
