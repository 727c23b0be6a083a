"""The region manifest on disk (YAML)."""

from pathlib import Path

import yaml

from usmed.domain.errors import ConfigurationError
from usmed.domain.region import RegionManifest, parse_region

LIMIT_BYTES = 4 << 20


def load_region(path: Path) -> RegionManifest:
    """Read and check `region.yaml`.

    Raises:
        ConfigurationError: unreadable, not YAML, or wrong; every fault is listed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be read: {error.strerror}"]) from error
    if len(data) > LIMIT_BYTES:
        raise ConfigurationError(str(path), [f"has {len(data)} bytes, more than {LIMIT_BYTES}"])
    try:
        document = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigurationError(str(path), [f"is not YAML: {error}"]) from error
    return parse_region(document, str(path))
