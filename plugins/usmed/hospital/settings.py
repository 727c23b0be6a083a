"""The node's settings: section "Usmed" of Orthanc's configuration, read whole before anything starts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import time, timedelta
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from usmed.domain.audit_patterns import Rules
from usmed.domain.errors import ConfigurationError
from usmed.domain.hl7_message import CHARACTER_SETS
from usmed.hospital.staff.rules import roles

SECTION = "Usmed"


class AutomaticPull(StrEnum):
    """When a pull starts by itself."""

    LOOKUP = "lookup"
    ARRIVAL = "arrival"
    CLICK = "click"


@dataclass(frozen=True)
class FederationSettings:
    """The listener for the other hospitals."""

    ListenAddress: str = "0.0.0.0"  # noqa: S104 - the one port that other hospitals are meant to reach
    Port: int = 8043
    TlsCertificateFile: str = ""
    TlsPrivateKeyFile: str = ""
    MaximumBodyBytes: int = 1 << 20
    Threads: int = 24


@dataclass(frozen=True)
class LookupSettings:
    """Lookups across the region; all in seconds."""

    DeadlineSeconds: float = 1.5
    CircuitSeconds: float = 30.0
    CacheSeconds: float = 10.0
    IdentitySeconds: float = 30.0


@dataclass(frozen=True)
class PullSettings:
    """Studies on their way here."""

    Automatic: AutomaticPull = AutomaticPull.LOOKUP
    Modalities: list[str] = field(default_factory=list)
    MaximumAgeYears: int = 0
    MaximumStudies: int = 20
    Connections: int = 4
    Workers: int = 2
    IdleSeconds: float = 20.0
    WaitSeconds: float = 300.0


class Processing(StrEnum):
    """MSH-11 (HL7 table 0103): which messages are meant for this node."""

    PRODUCTION = "P"
    TRAINING = "T"
    DEBUGGING = "D"


class WithdrawnCopies(StrEnum):
    """What becomes of a guest copy that the patient's consents do not permit any more."""

    DELETE = "delete"
    KEEP = "keep"


@dataclass(frozen=True)
class RetentionSettings:
    """Guest copies; 0 days keeps them for ever."""

    GuestDays: int = 30
    SweepSeconds: float = 3600.0
    AfterWithdrawal: WithdrawnCopies = WithdrawnCopies.DELETE
    LegalBasis: str = ""


@dataclass(frozen=True)
class HubSettings:
    """What the node keeps of the hub's answers, and how often it makes sure that the hub knows its studies."""

    ReconcileSeconds: float = 900.0
    ConsentSeconds: float = 5.0
    RegionSeconds: float = 30.0


class LogInBy(StrEnum):
    """Who asks for a password: Orthanc, by HTTP basic authentication only, or the node's own log-in page."""

    ORTHANC = "orthanc"
    PAGE = "page"


@dataclass(frozen=True)
class Hl7Settings:
    """The port for messages of the hospital information system; port 0 opens none."""

    ListenAddress: str = "0.0.0.0"  # noqa: S104 - systems of the hospital send to it, from addresses that are listed
    Port: int = 0
    Senders: dict[str, str] = field(default_factory=dict)
    Issuers: dict[str, str] = field(default_factory=dict)
    IssuerWithoutAuthority: str = ""
    ProcessingId: Processing = Processing.PRODUCTION
    CharacterSet: str = "UNICODE UTF-8"
    MaximumMessageBytes: int = 65536
    IdleSeconds: float = 3600.0
    TlsCertificateFile: str = ""
    TlsPrivateKeyFile: str = ""
    TlsClientAuthoritiesFile: str = ""


@dataclass(frozen=True)
class ArrivalsSettings:
    """Patients who come today: the other source, and how long they are remembered."""

    WorklistFolder: str = ""
    WorklistSeconds: float = 10.0
    KeepDays: int = 7


@dataclass(frozen=True)
class StaffSettings:
    """Which role each log-in has; the roles' names are those of staff/roles.yaml or of the hospital's own file."""

    LogIn: LogInBy = LogInBy.ORTHANC
    IdleMinutes: int = 30
    RolesFile: str = ""
    Users: dict[str, str] = field(default_factory=dict)
    OtherUsers: str = ""
    Anonymous: str = ""


@dataclass(frozen=True)
class OwnSettings:
    """Names, in Orthanc's configuration, of the systems that belong to this hospital."""

    Modalities: list[str] = field(default_factory=list)
    Peers: list[str] = field(default_factory=list)
    DicomWebServers: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ForeignSettings:
    """Names, in Orthanc's configuration, of systems of other hospitals of the region, each with the hospital's id."""

    Modalities: dict[str, str] = field(default_factory=dict)
    Peers: dict[str, str] = field(default_factory=dict)
    DicomWebServers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PatternSettings:
    """What is unusual enough for the auditor's page. Hours are the hospital's own, "HH:MM"; equal ones never end."""

    ManyPatients: int = 40
    WindowMinutes: int = 60
    OutOfHours: int = 10
    Opens: str = "06:00"
    Closes: str = "22:00"
    Zone: str = "Europe/Bucharest"
    Watched: list[str] = field(default_factory=list)
    Systems: list[str] = field(default_factory=list)


class SyslogTransport(StrEnum):
    """How audit messages travel."""

    TLS = "tls"
    UDP = "udp"


@dataclass(frozen=True)
class SyslogSettings:
    """The syslog server that gets the audit log; none if Host is empty."""

    Host: str = ""
    Port: int = 6514
    Transport: SyslogTransport = SyslogTransport.TLS
    AuthorityFile: str = ""
    CertificateFile: str = ""
    PrivateKeyFile: str = ""


@dataclass(frozen=True)
class AuditSettings:
    """The audit log's use."""

    Patterns: PatternSettings = field(default_factory=PatternSettings)
    Syslog: SyslogSettings = field(default_factory=SyslogSettings)


@dataclass(frozen=True)
class Settings:
    """Everything the administrator can set. An empty `Hospital` makes a node that stands alone."""

    Hospital: str = ""
    RegionFile: str = ""
    PrivateKeyFile: str = ""
    DatabaseUrl: str = ""
    Federation: FederationSettings = field(default_factory=FederationSettings)
    Lookup: LookupSettings = field(default_factory=LookupSettings)
    Pull: PullSettings = field(default_factory=PullSettings)
    Retention: RetentionSettings = field(default_factory=RetentionSettings)
    Hub: HubSettings = field(default_factory=HubSettings)
    Audit: AuditSettings = field(default_factory=AuditSettings)
    Hl7: Hl7Settings = field(default_factory=Hl7Settings)
    Arrivals: ArrivalsSettings = field(default_factory=ArrivalsSettings)
    Staff: StaffSettings = field(default_factory=StaffSettings)
    Own: OwnSettings = field(default_factory=OwnSettings)
    Foreign: ForeignSettings = field(default_factory=ForeignSettings)

    @property
    def federated(self) -> bool:
        """Tell whether the node belongs to a region."""
        return bool(self.Hospital)


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


def pattern_rules(settings: PatternSettings) -> Rules:
    """Return the rules that these settings make; they have been checked."""
    return Rules(
        many_patients=settings.ManyPatients,
        window=timedelta(minutes=settings.WindowMinutes),
        watched=frozenset(settings.Watched),
        opens=time.fromisoformat(settings.Opens),
        closes=time.fromisoformat(settings.Closes),
        out_of_hours=settings.OutOfHours,
        zone=ZoneInfo(settings.Zone),
        systems=frozenset(settings.Systems),
    )


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
