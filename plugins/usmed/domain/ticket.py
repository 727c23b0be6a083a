"""The place of the access ticket: what key servers will sign, and what a source will verify by itself.

Until key servers exist a source decides from the consent registry, and `AccessTicket` travels as None.
"""

from dataclasses import dataclass
from datetime import datetime

from usmed.domain.consent import Purpose
from usmed.domain.identifiers import PatientIdentifier


@dataclass(frozen=True, slots=True)
class AccessTicket:
    """This hospital may have these data of this patient, for this purpose, until then.

    Attributes:
        jti: the ticket's own identifier (RFC 7519 §4.1.7).
        requester: the hospital it was issued to.
        patient: the identifiers it covers.
        purpose: purpose of use.
        consent_id, consent_digest: the consent it rests on, and the SHA-256 of that consent's canonical bytes.
        issued, expires: aware UTC.
    """

    jti: str
    requester: str
    patient: frozenset[PatientIdentifier]
    purpose: Purpose
    consent_id: str
    consent_digest: str
    issued: datetime
    expires: datetime
