"""Settings from the environment: NAME holds the value, or NAME_FILE the path of a file that does (for secrets)."""

from collections.abc import Mapping
from pathlib import Path

from usmed.domain.errors import ConfigurationError

DATABASE_URL = "USMED_DATABASE_URL"
REGION_FILE = "USMED_REGION_FILE"
REGION_POLL_S = "USMED_REGION_POLL_S"


def setting(environ: Mapping[str, str], name: str, default: str = "") -> str:
    """Return a setting; `default` if it is not given or empty.

    Raises:
        ConfigurationError: both NAME and NAME_FILE are given, or the file cannot be read.
    """
    value, path = environ.get(name, ""), environ.get(f"{name}_FILE", "")
    if value and path:
        raise ConfigurationError("environment", [f"{name} and {name}_FILE are both given: remove one"])
    if path:
        try:
            value = Path(path).read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError("environment", [f"{name}_FILE: {path} cannot be read"]) from error
    return value or default
