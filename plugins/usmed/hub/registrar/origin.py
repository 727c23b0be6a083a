"""Where the registrars' pages stand: at the portal's address, or at the hub's own where the region has no portal."""

from usmed.domain.region import RegionManifest
from usmed.platform.passkeys import origin_of


def registrar_origin(region: RegionManifest) -> str:
    """Return the origin that browsers have there; passkeys are bound to its host name."""
    return region.portal or origin_of(region.hub.address)
