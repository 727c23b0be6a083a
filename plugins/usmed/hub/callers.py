"""Who calls the hub: what the signature guard has verified, as a member of the region."""

from flask import request

from usmed.domain.errors import PeerDataError
from usmed.domain.region import Hospital, Member, RegionManifest
from usmed.platform.signed_http import REQUEST_KEY


class NotAHospitalError(PeerDataError):
    """The request is properly signed, by a member of the region that has no business here."""


def calling_hospital(region: RegionManifest) -> Hospital:
    """Return the hospital that asks.

    Raises:
        NotAHospitalError: another member of the region does.
    """
    hospital = region.hospitals.get(request.environ[REQUEST_KEY].sender)
    if hospital is None:
        raise NotAHospitalError("only hospitals of the region are served")
    return hospital


def calling_member(region: RegionManifest) -> Member:
    """Return the member of the region that asks: a hospital or a key server.

    Raises:
        NotAHospitalError: it was removed since the guard looked.
    """
    member = region.member(request.environ[REQUEST_KEY].sender)
    if member is None:
        raise NotAHospitalError("only members of the region are served")
    return member
