"""Where the portal stands at the hub's address: `/portal`, and `/` leads there. The rest is the hospitals'."""

from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from werkzeug.middleware.dispatcher import DispatcherMiddleware

from usmed.domain.region import RegionManifest

PATH = "/portal"


def mounted(
    hospitals: WSGIApplication, portal: WSGIApplication, region: Callable[[], RegionManifest]
) -> WSGIApplication:
    """Return the hub with its portal, as long as the region names one."""

    def front(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        wanted = environ["REQUEST_METHOD"] in ("GET", "HEAD") and environ.get("PATH_INFO", "") in ("", "/", PATH)
        if wanted and region().portal:
            start_response("302 Found", [("Location", f"{PATH}/"), ("Content-Length", "0")])
            return []
        return hospitals(environ, start_response)

    both = DispatcherMiddleware(front, {PATH: portal})

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Without the slash at the end, links on the page would lead elsewhere.
        return (front if environ.get("PATH_INFO") == PATH else both)(environ, start_response)

    return application
