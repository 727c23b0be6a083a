"""The OpenAPI document is valid, says what the hub does, and the hub does what it says."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import jsonschema
import yaml
from openapi_spec_validator import validate

from contract.hub_region import CNP, Region, study
from usmed.domain.canonical import canonical_json
from usmed.hub.app import create_app
from usmed.hub.description import DESCRIPTION
from usmed.hub.fhir import PATH as FHIR
from usmed.hub.wsgi import OPEN_PATHS, OPEN_POSTS

DOCS = Path(__file__).parents[2] / "docs/reference/hub-api.md"


def test_it_is_valid_openapi_3_1() -> None:
    validate(DESCRIPTION.document)
    assert DESCRIPTION.document["openapi"].startswith("3.1.")


def test_its_operations_are_the_routes() -> None:
    # No operation is called.
    app = create_app(SimpleNamespace(audit=None, clock=None, limit_bytes=0, regions=SimpleNamespace(current=None)))  # type: ignore[arg-type]
    routes = {(path, method.lower()) for path, method in app.routes}
    described = {(path, method) for path, item in DESCRIPTION.document["paths"].items() for method in item}
    assert routes == described
    for method, open_paths in (("get", OPEN_PATHS), ("post", OPEN_POSTS)):
        items = DESCRIPTION.document["paths"].items()
        assert {path for path, item in items if item.get(method, {}).get("security") == []} == {
            one for one in open_paths if not one.startswith(FHIR)
        }


def test_it_is_served_as_it_is(region: Region) -> None:
    answer = region.client.get("/v1/openapi.yaml")
    assert answer.content_type == "application/yaml"
    assert yaml.safe_load(answer.text) == DESCRIPTION.document


def test_answers_have_the_described_form(region: Region) -> None:
    exchanges: list[tuple[str, str, dict[str, Any], int]] = [
        ("iasi", "/v1/studies/feed", {"upsert": [study("1.1", ("SF-SPIRIDON", "7"), ("RO-CNP", CNP)), {}]}, 200),
        ("iasi", "/v1/studies/digest", {"buckets": {}}, 200),
        ("iasi", "/v1/studies/replace", {"bucket": "00", "records": []}, 200),
        ("bacau", "/v1/resolve", {"identifier": {"issuer": "RO-CNP", "value": CNP}, "purpose": "TREAT"}, 200),
        ("iasi", "/v1/consents/records", {"records": [], "enrolments": []}, 200),
        ("iasi", "/v1/consents/changes", {"since": 0}, 200),
        ("iasi", "/v1/consents/changes", {"since": -1}, 400),
        ("iasi", "/v1/region/after", {"version": 0}, 200),
        ("hub", "/v1/region/after", {"version": 0}, 200),
        ("iasi", "/v1/region/after", {}, 400),
        ("hub", "/v1/consents/changes", {"since": 0}, 403),
    ]
    invitation = {
        "id": str(uuid4()),
        "code_sha256": "0" * 64,
        "patient": [{"issuer": "RO-CNP", "value": CNP}],
        "birth_date": "19630615",
        "guardian": {"basis": "court", "until": 4_000_000_000},
    }
    asked = {"id": str(uuid4()), "identifier": {"issuer": "RO-CNP", "value": CNP}, "purpose": "TREAT"}
    asked |= {"department": "Radiologie", "role": "medic"}
    exchanges += [
        ("iasi", "/v1/enrolments/invite", invitation, 200),
        ("iasi", "/v1/enrolments/invite", {**invitation, "birth_date": "19630616"}, 400),
        ("iasi", "/v1/enrolments/state", {"id": invitation["id"]}, 200),
        ("bacau", "/v1/enrolments/state", {"id": invitation["id"]}, 403),
        ("iasi", "/v1/enrolments/cancel", {"id": invitation["id"]}, 200),
        ("iasi", "/v1/requests", asked, 200),
        ("iasi", "/v1/requests/state", {"ids": [asked["id"], str(uuid4())]}, 200),
        ("iasi", "/v1/accesses", {"accesses": []}, 200),
        ("hub", "/v1/accesses", {"accesses": []}, 403),
    ]
    given = region.permit("RO-CNP", CNP)
    for sender, path, document, status in exchanges:
        answer = region.send(sender, path, canonical_json(document))
        assert answer.status_code == status
        responses = DESCRIPTION.document["paths"][path]["post"]["responses"]
        response = responses.get(str(status), responses["default"])
        _validate(answer.json, response)
    assert given
    _validate(region.client.get("/health").json, DESCRIPTION.document["paths"]["/health"]["get"]["responses"]["200"])


def test_examples_are_accepted(region: Region) -> None:
    (record,) = DESCRIPTION.document["components"]["schemas"]["StudyRecord"]["examples"]
    region.feed("iasi", record)
    (access,) = DESCRIPTION.document["components"]["schemas"]["AccessRecord"]["examples"]
    assert region.post("iasi", "/v1/accesses", {"accesses": [access]}) == {"taken": 1, "problems": []}


def test_the_reference_names_every_operation() -> None:
    text = DOCS.read_text("utf-8")
    for path in DESCRIPTION.document["paths"]:
        assert f"`{path}`" in text


def _validate(document: Any, response: dict[str, Any]) -> None:
    components = DESCRIPTION.document["components"]
    if "$ref" in response:
        response = components["responses"][response["$ref"].rpartition("/")[2]]
    schema = {**response["content"]["application/json"]["schema"], "components": components}
    jsonschema.Draft202012Validator(schema).validate(document)
