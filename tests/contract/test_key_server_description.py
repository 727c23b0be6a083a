"""A key server's OpenAPI document is valid and says what the server does; its metrics say nothing about patients."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml
from openapi_spec_validator import validate

from contract.key_servers import Servers, running_servers
from contract.test_approvals import REASON, approvals, operation
from contract.test_key_servers import CNP, LOCAL
from support.wishes import wish_of
from usmed.domain.approval import Change, parse_operation
from usmed.domain.errors import RefusedError
from usmed.domain.secret_sharing import Release, parse_secret
from usmed.domain.ticket import parse_ticket
from usmed.keyserver.app import create_app
from usmed.keyserver.description import DESCRIPTION
from usmed.keyserver.settings import load_listening, load_settings
from usmed.keyserver.wsgi import OPEN_PATHS
from usmed.platform.secret_client import SecretClient
from usmed.platform.signed_http import Identity

REPOSITORY = Path(__file__).parents[2]
REFERENCE = (REPOSITORY / "docs/reference/key-server-api.md").read_text("utf-8")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    names = iter(range(100))
    with running_servers(lambda: f"sqlite:///{tmp_path / str(next(names))}.db") as running:
        yield running


def check(schema: dict[str, Any], document: Any) -> None:
    jsonschema.Draft202012Validator({**schema, "components": DESCRIPTION.document["components"]}).validate(document)


def exchange_all(servers: Servers) -> list[tuple[str, dict[str, Any], int, Any]]:
    """Ask every operation once, with good and bad requests; return path, question, status and answer."""
    given, link = [servers.record("consent-1", to="bacau")], [servers.enrolment(CNP, LOCAL)]
    ticket = servers.propose("bacau", given).to_json()
    asked = [
        ("bacau", "/v1/records", {"records": given, "enrolments": link}, 200),
        ("bacau", "/v1/records/for", {"identifiers": [{"issuer": CNP.issuer, "value": CNP.value}]}, 200),
        ("bacau", "/v1/tickets", {"wish": wish_of(ticket), "records": [], "enrolments": []}, 200),
        ("iasi", "/v1/tickets", {"wish": {**wish_of(ticket), "sub": "iasi"}, "records": [], "enrolments": []}, 403),
        ("iasi", "/v1/approvals", {"operation": operation(servers).to_json()}, 200),
        ("iasi", "/v1/approvals/state", {"nonce": operation(servers).nonce}, 200),
        ("hub", "/v1/records", {"records": given, "enrolments": link}, 200),
        ("keys-2", "/v1/records", {"records": [], "enrolments": []}, 403),
        ("keys-2", "/v1/exchange", {"since": 0, "seen": None}, 200),
        ("bacau", "/v1/exchange", {"since": 0, "seen": None}, 403),
    ]
    done = []
    for sender, path, question, status in asked:
        answer = servers.send(sender, "keys-1", path, question)
        assert answer.status_code == status, (path, answer.text)
        done.append((path, question, status, answer.json))
    for _ in range(2):
        servers.ask("keys-2", "keys-1")
    assert servers.sent[-1][2]["seen"] is not None
    shares = SecretClient(
        Identity("iasi", servers.keys["iasi"]), servers.current, servers.post_as("iasi"), servers.clock
    )
    shares.put("research", bytes(32), nodes=["iasi"])
    shares.share_anew("iasi/research")
    with pytest.raises(RefusedError):
        shares.get("iasi/other")
    shares.put("archive", bytes(32), nodes=["iasi"], release=Release.APPROVAL)
    released = shares.propose("iasi/archive", REASON).operation
    for name in ("keys-1", "keys-2"):
        approvals(servers, name).decide(released.digest, Change.APPROVE, by="test")
    shares.get("iasi/archive", shares.approvals.standing(released))
    return done + servers.calls


def test_it_is_valid_openapi_3_1() -> None:
    validate(DESCRIPTION.document)
    assert DESCRIPTION.document["openapi"].startswith("3.1.")


def test_its_operations_are_the_routes() -> None:
    # No operation is called.
    app = create_app(SimpleNamespace(audit=None, clock=None, limit_bytes=0, region=None))  # type: ignore[arg-type]
    routes = {(path, method.lower()) for path, method in app.routes}
    described = {(path, method) for path, item in DESCRIPTION.document["paths"].items() for method in item}
    assert routes == described
    paths = DESCRIPTION.document["paths"].items()
    unsigned = {path for path, item in paths if item.get("get", {}).get("security") == []}
    assert unsigned == OPEN_PATHS


def test_it_is_served_as_it_is(servers: Servers) -> None:
    answer = servers.clients["keys-1"].get("/v1/openapi.yaml")
    assert answer.content_type == "application/yaml"
    assert yaml.safe_load(answer.text) == DESCRIPTION.document


def test_questions_and_answers_have_the_described_form(servers: Servers) -> None:
    components = DESCRIPTION.document["components"]
    paths = set()
    for path, question, status, answer in exchange_all(servers):
        operation = DESCRIPTION.document["paths"][path]["post"]
        check(operation["requestBody"]["content"]["application/json"]["schema"], question)
        response = operation["responses"].get(str(status), operation["responses"]["default"])
        if "$ref" in response:
            response = components["responses"][response["$ref"].rpartition("/")[2]]
        check(response["content"]["application/json"]["schema"], answer)
        paths.add(path)
    assert paths == {path for path, item in DESCRIPTION.document["paths"].items() if "post" in item}
    check({"$ref": "#/components/schemas/Health"}, servers.health("keys-1"))


def test_examples_fit_and_are_accepted(servers: Servers) -> None:
    schemas = DESCRIPTION.document["components"]["schemas"]
    examples = [(name, one) for name, schema in schemas.items() for one in schema.get("examples", [])]
    assert len(examples) >= 6
    for name, one in examples:
        check({"$ref": f"#/components/schemas/{name}"}, one)
    parse_ticket(schemas["Ticket"]["examples"][0])
    parse_secret(schemas["SecretRecord"]["examples"][0])
    parse_operation(schemas["Operation"]["examples"][0])
    for path, name, sender in (
        ("/v1/records", "GivenRecords", "iasi"),
        ("/v1/records/for", "RecordsFor", "iasi"),
        ("/v1/exchange", "ExchangeQuestion", "keys-2"),
    ):  # fmt: skip
        assert servers.send(sender, "keys-1", path, schemas[name]["examples"][0]).status_code == 200


def test_what_is_not_described_is_refused_with_its_place_and_recorded(servers: Servers) -> None:
    """A hospital's typing error has to be found by who reads the answer; nothing of the request is kept."""
    good = {path: question for path, question, status, _ in exchange_all(servers) if status == 200}
    assert set(good) == {path for path, item in DESCRIPTION.document["paths"].items() if "post" in item}
    for path, question in good.items():
        sender = "keys-2" if path == "/v1/exchange" else "iasi"
        wrong = [({**question, "more": 1}, "$"), ([question], "$"), (None, "$")]
        wrong += [({name: one for name, one in question.items() if name != left_out}, "$") for left_out in question]
        # An approval is not needed for every secret.
        if path == "/v1/secrets/shares":
            wrong = [(body, place) for body, place in wrong if not isinstance(body, dict) or set(body) != {"id", "to"}]
        wrong += [({**question, name: 1.5}, f"$.{name}") for name in question]
        for body, place in wrong:
            before = servers.audits["keys-1"].head().count
            answer = servers.send(sender, "keys-1", path, body)
            assert (answer.status_code, answer.json["error"]) == (400, "bad-request"), (path, body)
            assert answer.json["details"][0].startswith(f"{place}: "), (path, answer.json)
            assert f"see {place};" in answer.json["message"]
            (event,) = servers.audits["keys-1"].tail(servers.audits["keys-1"].head().count - before)
            assert (event["event"], event["agent"]) == ("refused", sender)
            assert event["reason"].startswith("400 ")


def test_a_fault_deep_inside_is_named_by_its_place_and_not_by_a_patients_number(servers: Servers) -> None:
    wish = wish_of(servers.propose("bacau", [servers.record("consent-1", to="bacau")]).to_json())
    patient = [{"issuer": CNP.issuer, "value": CNP.value, "name": "Popescu"}]
    body = {"wish": {**wish, "patient": patient, "life": 0}, "records": [], "enrolments": []}
    answer = servers.send("bacau", "keys-1", "/v1/tickets", body).json
    assert [one.partition(": ")[0] for one in answer["details"]] == ["$.wish.life", "$.wish.patient[0]"]
    assert "see $.wish.life;" in answer["message"]
    assert CNP.value not in answer["message"]


def test_the_reference_names_every_operation_setting_and_metric(servers: Servers) -> None:
    for path in DESCRIPTION.document["paths"]:
        assert f"`{path}`" in REFERENCE
    source = "".join(
        Path(str(function.__code__.co_filename)).read_text("utf-8") for function in (load_settings, load_listening)
    )
    for name in set(re.findall(r'"(USMED_[A-Z_]+)"', source)):
        assert re.search(rf"`{name}(_FILE)?`", REFERENCE), name
    told = set(re.findall(r"^# TYPE (\w+)", servers.clients["keys-1"].get("/metrics").text, re.MULTILINE))
    assert told == set(re.findall(r"^\| `(usmed_\w+)`", REFERENCE, re.MULTILINE))


def test_metrics_count_what_happened_and_name_no_patient(servers: Servers) -> None:
    exchange_all(servers)
    servers.down = {"keys-3"}
    servers.ask("keys-1", "keys-3")
    servers.ask("keys-1", "keys-2")
    client = servers.clients["keys-1"]
    assert client.post("/v1/tickets", data=b"{}").status_code == 401
    for path in (f"/v1/{CNP.value}", "/v1/nothing", "/v1/records/for"):
        client.get(path)
    answer = client.get("/metrics")
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    for expected in (
        'usmed_requests_total{route="/v1/tickets",status="200"} 1',
        'usmed_requests_total{route="/v1/tickets",status="403"} 1',
        'usmed_requests_total{route="/v1/tickets",status="401"} 1',
        'usmed_requests_total{route="other",status="401"} 2',
        'usmed_ticket_decisions_total{code="signed"} 1',
        'usmed_ticket_decisions_total{code="no-consent"} 1',
        'usmed_exchange_failures{peer="keys-3"} 1',
        'usmed_exchange_failures{peer="keys-2"} 0',
        'usmed_exchange_succeeded_timestamp_seconds{peer="keys-3"} 0',
        f'usmed_exchange_succeeded_timestamp_seconds{{peer="keys-2"}} {servers.clock().timestamp():.0f}',
        'usmed_log_alarms{server="keys-2"} 0',
        f"usmed_audit_sequence {servers.audits['keys-1'].head().count}",
    ):
        assert expected in lines, answer.text
    for secret in (CNP.value, CNP.issuer, "consent-1", "ionescu"):
        assert secret not in answer.text


def test_the_form_is_prometheus_own(servers: Servers) -> None:
    """Every line is a comment or a sample, and every sample belongs to the type before it (text format 0.0.4)."""
    exchange_all(servers)
    kind = ""
    for line in servers.clients["keys-1"].get("/metrics").text.splitlines():
        if found := re.fullmatch(r"# TYPE ([a-z_]+) (counter|gauge)", line):
            kind = found[1]
        elif not line.startswith("# HELP "):
            sample = re.fullmatch(r'([a-z_]+)(\{[a-z_]+="[^"\\\n]*"(,[a-z_]+="[^"\\\n]*")*\})? [0-9.e+]+', line)
            assert sample is not None, line
            assert sample[1] == kind
