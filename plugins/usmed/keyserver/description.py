"""The key server's OpenAPI description, which is also what requests are checked against."""

from usmed.platform.openapi import Description

DESCRIPTION = Description("usmed.keyserver")
