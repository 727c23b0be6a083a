"""The files that say who may do what: our permissions and roles, and the hospital's own roles."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from usmed.domain.route_table import RouteTable
from usmed.domain.staff_role import Role, read_roles

LARGEST_FILE_BYTES = 1 << 20


def permissions() -> Mapping[str, Mapping[str, Any]]:
    """Return what permissions.yaml says: by permission, what it `means`, its `routes`, whether it is `personal`."""
    document: Mapping[str, Mapping[str, Any]] = _ours("permissions.yaml")
    return document


def personal() -> frozenset[str]:
    """Return the permissions for what a member of staff does under their own name: no program's to have."""
    return frozenset(name for name, document in permissions().items() if document.get("personal"))


def roles(file: str) -> tuple[dict[str, Role], list[str]]:
    """Return the roles in force, and every fault of the hospital's own file.

    Args:
        file: that file; empty if there is none.
    """
    changes: Any = {}
    if file:
        try:
            with Path(file).open("rb") as stream:
                content = stream.read(LARGEST_FILE_BYTES + 1)
            if len(content) > LARGEST_FILE_BYTES:
                return {}, [f"{file}: has more than {LARGEST_FILE_BYTES} bytes"]
            changes = yaml.safe_load(content) or {}
        except OSError as error:
            return {}, [f"{file}: {error.strerror}"]
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            return {}, [f"{file}: is no YAML: {error}"]
    return read_roles(_ours("roles.yaml"), changes, permissions(), file)


def route_table(dicomweb: Mapping[str, Any]) -> RouteTable:
    """Return the table of this node's addresses.

    Args:
        dicomweb: section "DicomWeb" of Orthanc's configuration.
    """
    roots = {"dicomweb": dicomweb_root(dicomweb), "wado": str(dicomweb.get("WadoRoot", "/wado")).strip("/")}
    return RouteTable(permissions(), roots)


def dicomweb_root(dicomweb: Mapping[str, Any]) -> str:
    """Return where DICOMweb begins, without slashes around it."""
    return str(dicomweb.get("Root", "/dicom-web/")).strip("/")


def _ours(name: str) -> Any:
    return yaml.safe_load(files("usmed.hospital.staff").joinpath(name).read_bytes())
