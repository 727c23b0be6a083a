"""Reads the node's settings out of Orthanc's configuration, and finds every fault in them before anything starts."""

import re
from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from usmed.domain.errors import ConfigurationError
from usmed.domain.hl7_message import CHARACTER_SETS
from usmed.hospital.settings import (
    SECTION,
    AuditSettings,
    LogInBy,
    Settings,
    WithdrawnCopies,
)
from usmed.hospital.staff.rules import roles

_MINIMA = {
    "Federation.Port": 1,
    "Federation.MaximumBodyBytes": 4096,
    "Federation.Threads": 2,
    "Lookup.DeadlineSeconds": 0.05,
    "Pull.Connections": 1,
    "Pull.Workers": 1,
    "Pull.IdleSeconds": 1,
    "Pull.WaitSeconds": 1,
    "Retention.SweepSeconds": 1,
    "Hub.ReconcileSeconds": 1,
    "Hub.RegionSeconds": 1,
    "Audit.Patterns.WindowMinutes": 1,
    "Audit.Syslog.Port": 1,
    "Hl7.MaximumMessageBytes": 4096,
    "Hl7.IdleSeconds": 1,
    "Arrivals.WorklistSeconds": 1,
    "Arrivals.KeepDays": 1,
    "Staff.IdleMinutes": 1,
}
_MAXIMA = {
    "Federation.Port": 65535,
    # Parsed, each byte may be a field of its own.
    "Hl7.MaximumMessageBytes": 1 << 20,
    "Hl7.Port": 65535,
    "Arrivals.KeepDays": 60,
    "Lookup.DeadlineSeconds": 60,
    "Pull.Connections": 16,
    "Audit.Patterns.WindowMinutes": 1440,
    "Audit.Syslog.Port": 65535,
}


def read_settings(configuration: Mapping[str, Any], source: str) -> Settings:
    """Read and check the node's settings.

    Args:
        configuration: Orthanc's whole configuration.
        source: where it came from, for messages.

    Raises:
        ConfigurationError: every fault at once, each with its path: unknown keys, wrong types, values out of range,
            files that are missing, and settings of Orthanc's own that would open a way around consent.
    """
    problems: list[str] = []
    section = configuration.get(SECTION, {})
    settings = _read(Settings, section, SECTION, problems)
    _check_files(settings, problems)
    _check_arrivals(settings, problems)
    retention = settings.Retention
    if retention.AfterWithdrawal is WithdrawnCopies.KEEP and not retention.LegalBasis.strip():
        problems.append(f"{SECTION}.Retention.LegalBasis: must say by which law copies are kept after a withdrawal")
    _check_audit(settings.Audit, problems)
    _check_staff(settings, configuration, problems)
    _check_orthanc(settings, configuration, problems)
    if problems:
        raise ConfigurationError(source, problems)
    return settings


def _read[T](kind: type[T], element: Any, path: str, problems: list[str]) -> T:
    if not isinstance(element, dict):
        problems.append(f"{path}: must be an object")
        return kind()
    hints = get_type_hints(kind)
    names = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    problems += [f"{path}.{key}: unknown setting" for key in element if key not in names]
    values = {name: _value(hints[name], element[name], f"{path}.{name}", problems) for name in names & set(element)}
    return kind(**{name: value for name, value in values.items() if value is not None})


def _value(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if value not in list(kind):
            problems.append(f"{path}: must be one of {', '.join(kind)}")
            return None
        return kind(value)
    origin = get_origin(kind)
    if origin is list:
        return _checked(
            isinstance(value, list) and all(isinstance(one, str) for one in value),
            value,
            path,
            problems,
            "a list of text",
        )
    if origin is dict:
        good = isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
        return _checked(good, value, path, problems, "an object of text")
    if kind is str:
        return _checked(isinstance(value, str), value, path, problems, "text")
    if kind in (int, float):
        number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        short = path.removeprefix(f"{SECTION}.")
        low, high = _MINIMA.get(short, 0), _MAXIMA.get(short, float("inf"))
        expected = f"a {'whole ' if kind is int else ''}number from {low}" + (f" to {high}" if short in _MAXIMA else "")
        return _checked(number and low <= value <= high, value, path, problems, expected)
    assert not isinstance(kind, UnionType)
    assert not get_args(kind)
    return _read(kind, value, path, problems)


def _checked(good: bool, value: Any, path: str, problems: list[str], expected: str) -> Any:
    if not good:
        problems.append(f"{path}: must be {expected}")
        return None
    return value


def _check_files(settings: Settings, problems: list[str]) -> None:
    federation, hl7 = settings.Federation, settings.Hl7
    for name, one in (("Federation", federation), ("Hl7", hl7)):
        if bool(one.TlsCertificateFile) != bool(one.TlsPrivateKeyFile):
            problems.append(f"{SECTION}.{name}: TlsCertificateFile and TlsPrivateKeyFile go together")
    named = {
        "RegionFile": settings.RegionFile,
        "PrivateKeyFile": settings.PrivateKeyFile,
        "Federation.TlsCertificateFile": federation.TlsCertificateFile,
        "Federation.TlsPrivateKeyFile": federation.TlsPrivateKeyFile,
        "Audit.Syslog.AuthorityFile": settings.Audit.Syslog.AuthorityFile,
        "Audit.Syslog.CertificateFile": settings.Audit.Syslog.CertificateFile,
        "Audit.Syslog.PrivateKeyFile": settings.Audit.Syslog.PrivateKeyFile,
        "Hl7.TlsCertificateFile": hl7.TlsCertificateFile,
        "Hl7.TlsPrivateKeyFile": hl7.TlsPrivateKeyFile,
        "Hl7.TlsClientAuthoritiesFile": hl7.TlsClientAuthoritiesFile,
    }
    for name, value in named.items():
        if value and not Path(value).is_file():
            problems.append(f"{SECTION}.{name}: there is no file {value!r}")
    for name in ("RegionFile", "PrivateKeyFile"):
        if settings.federated and not named[name]:
            problems.append(f"{SECTION}.{name}: is needed when Hospital is set")


def _check_audit(audit: AuditSettings, problems: list[str]) -> None:
    patterns, path = audit.Patterns, f"{SECTION}.Audit.Patterns"
    for name in ("Opens", "Closes"):
        if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", getattr(patterns, name)):
            problems.append(f'{path}.{name}: must be a time of day, "HH:MM"')
    try:
        ZoneInfo(patterns.Zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        problems.append(f'{path}.Zone: there is no time zone {patterns.Zone!r}; an example is "Europe/Bucharest"')
    if audit.Syslog.PrivateKeyFile and not audit.Syslog.CertificateFile:
        problems.append(f"{SECTION}.Audit.Syslog.PrivateKeyFile: goes with a CertificateFile")
    problems += [
        f"{path}.Watched: {one!r} is no patient's number with its issuer, ISSUER:NUMBER"
        for one in patterns.Watched
        if not all(one.partition(":"))
    ]


def _check_arrivals(settings: Settings, problems: list[str]) -> None:
    hl7, folder = settings.Hl7, settings.Arrivals.WorklistFolder
    if hl7.Port and not hl7.Senders:
        problems.append(f"{SECTION}.Hl7.Senders: must name who may send, and from which address, when Port is set")
    for sender, network in hl7.Senders.items():
        try:
            ip_network(network)
        except ValueError:
            problems.append(f"{SECTION}.Hl7.Senders.{sender}: {network!r} is no address or network such as 10.0.0.0/24")
        if sender.count("^") != 1:
            problems.append(f"{SECTION}.Hl7.Senders.{sender}: must be APPLICATION^FACILITY, as in MSH-3 and MSH-4")
    if hl7.CharacterSet not in CHARACTER_SETS:
        problems.append(f"{SECTION}.Hl7.CharacterSet: must be one of {', '.join(CHARACTER_SETS)}")
    if hl7.TlsClientAuthoritiesFile and not hl7.TlsCertificateFile:
        problems.append(f"{SECTION}.Hl7.TlsClientAuthoritiesFile: needs TlsCertificateFile and TlsPrivateKeyFile")
    if folder and not Path(folder).is_dir():
        problems.append(f"{SECTION}.Arrivals.WorklistFolder: there is no folder {folder!r}")


def _check_staff(settings: Settings, configuration: Mapping[str, Any], problems: list[str]) -> None:
    """Whoever can log in has a role, by name, and nobody has one by oversight."""
    staff, path = settings.Staff, f"{SECTION}.Staff"
    known, faults = roles(staff.RolesFile)
    problems += [f"{path}.RolesFile: {fault}" for fault in faults]
    named = {f"Users.{user}": role for user, role in staff.Users.items()}
    named |= {name: role for name in ("OtherUsers", "Anonymous") if (role := getattr(staff, name))}
    if not faults:
        problems += [
            f"{path}.{name}: there is no role {role!r}; there are {', '.join(known)}"
            for name, role in named.items()
            if role not in known
        ]
    page = staff.LogIn is LogInBy.PAGE
    if page and configuration.get("AuthenticationEnabled") is not False:
        problems.append(f"AuthenticationEnabled: must be false where {path}.LogIn is page: Orthanc would ask before it")
    if page and not settings.federated:
        problems.append(f"{path}.LogIn: page needs a Hospital: a node that stands alone leaves log-ins to Orthanc")
    if not settings.federated:
        return
    if not page and not checks_passwords(configuration):
        if not staff.Anonymous:
            problems.append(
                f"{path}.Anonymous: must name the role of everybody who can connect, because AuthenticationEnabled is"
                " false; or set AuthenticationEnabled to true"
            )
        return
    users = configuration.get("RegisteredUsers", {})
    problems += [
        f"{path}.Users: {user!r} of RegisteredUsers has no role: name it here, or name one for all others in OtherUsers"
        for user in (users if isinstance(users, dict) else ())
        if user not in staff.Users and not staff.OtherUsers
    ]


def _check_orthanc(settings: Settings, configuration: Mapping[str, Any], problems: list[str]) -> None:
    """Orthanc's own settings that would let images leave around the check at the source."""
    if not settings.federated:
        return
    if configuration.get("DicomAlwaysAllowGet"):
        problems.append("DicomAlwaysAllowGet: must be false: no plugin can check a C-GET by a foreign system")
    if configuration.get("ExecuteLuaEnabled"):
        problems.append("ExecuteLuaEnabled: must be false: a script could send images past the consent check")
    if configuration.get("RestApiWriteToFileSystemEnabled"):
        problems.append("RestApiWriteToFileSystemEnabled: must be false: exports would pass no consent check")
    problems += [
        f"{name}: must be 0: it would cut what is moved, announced to the region and sent to it, not only lists"
        for name in ("LimitFindResults", "LimitFindInstances")
        if configuration.get(name)
    ]
    problems += _plugin_order(configuration.get("Plugins", []))
    for name, modality in configuration.get("DicomModalities", {}).items():
        if name not in settings.Own.Modalities and modality_allows_get(modality):
            problems.append(
                f'DicomModalities.{name}: is foreign (not in {SECTION}.Own.Modalities), so it needs "AllowGet": false,'
                ' in the long form {"AET": ..., "Host": ..., "Port": ..., "AllowGet": false}'
            )
    for kind in ("Modalities", "Peers", "DicomWebServers"):
        for name in getattr(settings.Own, kind):
            if name in getattr(settings.Foreign, kind):
                problems.append(f"{SECTION}.Foreign.{kind}.{name}: is also in {SECTION}.Own.{kind}")


def _plugin_order(plugins: Any) -> list[str]:
    """Of two plugins that want one address Orthanc asks the one it loaded first; of a folder the order is anybody's."""
    listed = [Path(one) for one in plugins if isinstance(one, str)] if isinstance(plugins, list) else []
    names = [one.name for one in listed]
    python = next((n for n, name in enumerate(names) if "Python" in name), len(names))
    early = [name for name in names[:python] if "DicomWeb" in name]
    if not early and not any(one.is_dir() for one in listed):
        return []
    return [
        "Plugins: must name files, libOrthancPython.so before libOrthancDicomWeb.so: otherwise DICOMweb requests pass"
        " no consent check"
    ]


def checks_passwords(configuration: Mapping[str, Any]) -> bool:
    """Tell whether Orthanc has checked the password of whoever it serves.

    What Orthanc does where nothing is said (Orthanc Book, "Configuration"): it does so if other machines may connect.
    """
    remote = configuration.get("RemoteAccessAllowed", False)
    return configuration.get("AuthenticationEnabled", remote) is True


def modality_allows_get(modality: Any) -> bool:
    """Tell whether Orthanc lets this modality C-GET: yes, unless its long form says no."""
    return not (isinstance(modality, dict) and modality.get("AllowGet") is False)
