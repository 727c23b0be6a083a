"""The OpenAPI description of a key server's interface."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml


def description_bytes() -> bytes:
    """Return openapi.yaml."""
    return files(__package__).joinpath("openapi.yaml").read_bytes()


@cache
def description() -> dict[str, Any]:
    """Return openapi.yaml, parsed."""
    document: dict[str, Any] = yaml.safe_load(description_bytes())
    return document
