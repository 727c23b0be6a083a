"""What a description accepts is what JSON Schema accepts, however it is made fast."""

from functools import cache
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usmed.platform.openapi import MOST_FAULTS, Description, InvalidRequestError, _fits

DESCRIPTIONS = {actor: Description(f"usmed.{actor}") for actor in ("hub", "keyserver")}
VALUES = st.none() | st.booleans() | st.integers(-3, 6) | st.floats(-3, 6) | st.text("aț😀", max_size=6) | st.just([])
LEAVES = st.fixed_dictionaries(
    {"type": st.sampled_from(["string", "integer", "object"])},
    optional={
        "minLength": st.integers(0, 4), "maxLength": st.integers(0, 4), "minimum": st.integers(-2, 4),
        "maximum": st.integers(-2, 4), "pattern": st.just("^a"), "enum": st.just(["a", 1]), "const": st.just("a"),
    },
)  # fmt: skip


SCHEMAS = st.recursive(
    LEAVES | st.just({}) | st.fixed_dictionaries({"enum": st.just(["a", 1])}),
    lambda inner: (
        st.fixed_dictionaries(
            {"type": st.just("array")},
            optional={
                "items": inner, "minItems": st.integers(0, 2), "maxItems": st.integers(0, 2),
                "uniqueItems": st.just(True),
            },
        )
        | st.fixed_dictionaries(
            {
                "type": st.just("object"), "properties": st.dictionaries(st.sampled_from("ab"), inner),
                "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
                "additionalProperties": st.booleans() | inner,
            },
            optional={"maxProperties": st.integers(0, 2)},
        )
    ),
    max_leaves=4,
)  # fmt: skip
DOCUMENTS = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
)


@given(SCHEMAS, DOCUMENTS)
@settings(max_examples=1000, deadline=None)
def test_what_plainly_fits_does_fit(schema: dict[str, Any], value: Any) -> None:
    if _fits(schema, value):
        jsonschema.Draft202012Validator(schema).validate(value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [({"type": "string"}, ""), ({"type": "string", "minLength": 1, "maxLength": 2}, "ța"), ({"type": "integer"}, 0),
     ({"type": "integer", "minimum": 0, "maximum": 0}, 0), ({"enum": ["TREAT", "ETREAT"]}, "TREAT"), ({}, [1.5]),
     ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, [1, 2]),
     ({"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"],
       "additionalProperties": False}, {"a": ""})],
)  # fmt: skip
def test_what_is_most_common_is_plain(schema: dict[str, Any], value: Any) -> None:
    assert _fits(schema, value)


JSON = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
BODIES = sorted(
    {(actor, one.body_of(path)) for actor, one in DESCRIPTIONS.items() for path, item in one.document["paths"].items()
     if "post" in item}
)  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, example: Any) -> Any:
    """Change, leave out or add something somewhere in a document."""
    if isinstance(example, dict) and example and draw(st.booleans()):
        name = draw(st.sampled_from([*example, "more"]))
        rest = {other: one for other, one in example.items() if other != name}
        return rest if draw(st.integers(0, 4)) == 0 else {**rest, name: draw(changed(example.get(name)))}
    if isinstance(example, list) and example and draw(st.booleans()):
        return [draw(changed(example[0])), *example[1:]]
    return draw(JSON)


@cache
def whole(actor: str, schema: str) -> Any:
    components = DESCRIPTIONS[actor].document["components"]
    return jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": components})


@pytest.mark.parametrize(("actor", "schema"), BODIES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_what_is_accepted_is_what_the_whole_description_accepts(actor: str, schema: str, data: st.DataObject) -> None:
    description = DESCRIPTIONS[actor]
    examples = description.document["components"]["schemas"][schema].get("examples", [{}])
    body = data.draw(changed(examples[0]) | st.sampled_from(examples))
    expected = whole(actor, schema).is_valid(body)
    try:
        description.check(schema, body)
        accepted = True
    except InvalidRequestError as error:
        accepted = False
        assert error.faults
    assert accepted is expected


def test_a_list_of_a_hundred_thousand_wrong_things_is_not_looked_through() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        DESCRIPTIONS["keyserver"].check("RecordsFor", {"identifiers": [0] * 100_000})
    assert len(refused.value.faults) == MOST_FAULTS
