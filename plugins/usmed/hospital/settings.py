"""The node's settings: section "Usmed" of Orthanc's configuration, read whole before anything starts."""

from dataclasses import dataclass, field
from datetime import time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from usmed.domain.audit_patterns import Rules

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
