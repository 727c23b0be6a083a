"""Starts the hub: checks its settings, then hands the process over to gunicorn."""

import os
import sys
from pathlib import Path

from usmed.domain.errors import ConfigurationError
from usmed.hub.settings import load_settings

CERTIFICATE_FILE = "USMED_TLS_CERTIFICATE_FILE"
TLS_KEY_FILE = "USMED_TLS_PRIVATE_KEY_FILE"
PORT = "USMED_HUB_PORT"
THREADS = "USMED_HUB_THREADS"


def serve() -> None:
    """Become the hub. Does not return.

    Raises:
        ConfigurationError: a setting is wrong; nothing was started.
    """
    load_settings(os.environ)
    problems = [
        f"{name} must name a file that can be read (make it with: usmed keys certificate)"
        for name in (CERTIFICATE_FILE, TLS_KEY_FILE)
        if not os.access(os.environ.get(name, ""), os.R_OK)
    ]
    port, threads = os.environ.get(PORT) or "8443", os.environ.get(THREADS) or "16"
    problems += [
        f"{name} must be a whole number"
        for name, text in ((PORT, port), (THREADS, threads))
        if not (text.isascii() and text.isdigit())
    ]
    if problems:
        raise ConfigurationError("settings of the hub", problems)
    plugins = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([plugins, os.environ.get("PYTHONPATH", "")])}
    arguments = [
        *("--bind", f"0.0.0.0:{port}"),
        # One process: its audit records share their commits. Threads serve requests side by side.
        *("--worker-class", "gthread", "--workers", "1", "--threads", threads),
        *("--certfile", os.environ[CERTIFICATE_FILE], "--keyfile", os.environ[TLS_KEY_FILE]),
        # A lookup should not pay for a TLS handshake: the nodes' idle connections are kept, and cost no thread.
        *("--keep-alive", "75"),
        *("--worker-tmp-dir", "/dev/shm", "--graceful-timeout", "10", "--timeout", "60"),  # noqa: S108 - gunicorn's heartbeat
        *("--log-level", "warning"),
        "usmed.hub.wsgi:create_application()",
    ]
    os.execve(sys.executable, [sys.executable, "-m", "gunicorn", *arguments], environment)  # noqa: S606 - no shell wanted
