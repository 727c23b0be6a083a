"""Who really calls, where a TLS proxy stands in front of the hub: believed of proxies that a setting names only."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from usmed.domain.errors import ConfigurationError

type Networks = Sequence[IPv4Network | IPv6Network]


def read_proxies(text: str, name: str) -> Networks:
    """Read addresses and networks, separated by commas or spaces.

    Raises:
        ConfigurationError: one of them is none.
    """
    problems, networks = [], []
    for one in text.replace(",", " ").split():
        try:
            networks.append(ip_network(one))
        except ValueError:
            problems.append(f"{name}: {one[:64]!r} is neither an address nor a network (10.1.2.3, 10.1.2.0/24)")
    if problems:
        raise ConfigurationError("environment", problems)
    return networks


def behind(application: WSGIApplication, proxies: Networks) -> WSGIApplication:
    """Return the application as it sees callers past these proxies: their addresses count failures and stand in logs.

    Of `X-Forwarded-For` the last address that is no proxy's is taken: what stands before it anybody may have written.
    """
    if not proxies:
        return application

    def past(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        hops = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
        address = environ.get("REMOTE_ADDR", "")
        while hops and _within(address, proxies) and _is_address(hop := hops.pop().strip()):
            address = hop
        return application({**environ, "REMOTE_ADDR": address}, start_response)

    return past


def _within(address: str, networks: Networks) -> bool:
    return _is_address(address) and any(ip_address(address) in one for one in networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
