"""The region manifest on disk (YAML)."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from usmed.domain.errors import ConfigurationError
from usmed.domain.region import RegionManifest, parse_region

LIMIT_BYTES = 4 << 20


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML leaves open what a key named twice means (YAML 1.2 §3.2.1.3 forbids it); PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key[1]!r} is there twice", node.value[number][0].start_mark
                )
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


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
        # S506 sees no safe loader: ours is one, which refuses a key named twice besides.
        document = yaml.load(data, Loader=_StrictLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigurationError(str(path), [f"is not YAML: {error}"]) from error
    return parse_region(document, str(path))
