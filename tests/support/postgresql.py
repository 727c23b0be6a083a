"""A PostgreSQL server of its own for tests, in a temporary directory."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import psycopg

PROGRAMS = Path("/usr/lib/postgresql/18/bin")


class Postgresql:
    """A server with a data directory of its own, which outlives it.

    Attributes:
        server: `USER@127.0.0.1:PORT`.
    """

    def __init__(self, kept: Path | None = None, **settings: str) -> None:
        # Without it half of the promise would go untested, silently: a missing server fails, it does not skip.
        assert (PROGRAMS / "initdb").exists(), f"PostgreSQL 18 is not installed in {PROGRAMS}"
        self._home = kept or Path(tempfile.mkdtemp(prefix="usmed-postgresql-"))
        # initdb and postgres refuse to run as root.
        user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        become = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
        if become:
            shutil.chown(self._home, user, user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.server = f"{user}@127.0.0.1:{port}"
        self._data = self._home / "data"
        if not self._data.exists():
            made = ["-D", self._data, "-A", "trust", "-U", user, "-E", "UTF8", "--no-locale"]
            subprocess.run([*become, PROGRAMS / "initdb", *made], check=True, capture_output=True)
        self._options = f"-p {port} -k {self._home} -c listen_addresses=127.0.0.1 -c max_connections=200"
        self._options += "".join(f" -c {name}={value}" for name, value in settings.items())
        self._control = [*become, PROGRAMS / "pg_ctl", "-D", self._data, "-w"]

    def start(self) -> None:
        """Start it; it recovers by itself from what befell it."""
        arguments = ["-l", self._home / "log", "-o", self._options, "start"]
        for attempt in range(10):
            # It does not start while a process of the one that was killed still holds the shared memory.
            if subprocess.run([*self._control, *arguments], check=attempt == 9, capture_output=True).returncode == 0:
                return
            time.sleep(0.5)

    def stop(self, mode: str = "immediate") -> None:
        """Stop it, at once unless another mode of pg_ctl is given."""
        subprocess.run([*self._control, "-m", mode, "stop"], check=True, capture_output=True)

    def kill(self) -> None:
        """Kill it and all its processes, as a power cut would."""
        server = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        for one in (server, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        while any(_lives(one) for one in (server, *map(int, children))):
            time.sleep(0.01)

    def remove(self) -> None:
        """Stop it, and remove its data."""
        self.stop()
        shutil.rmtree(self._home)


def _lives(process: int) -> bool:
    try:
        # The third field is Z for one that is dead and has not been waited for.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def running_postgresql(kept: Path | None = None, **settings: str) -> Iterator[str]:
    """Start a server; give `USER@127.0.0.1:PORT`.

    Args:
        kept: a folder for its data, which stay there, and are used if they are there; a temporary one else.
        settings: of postgresql.conf.
    """
    postgresql = Postgresql(kept, **settings)
    postgresql.start()
    try:
        yield postgresql.server
    finally:
        if kept:
            postgresql.stop(mode="fast")
        else:
            postgresql.remove()


def new_database(server: str) -> str:
    """Make an empty database on the server (`USER@HOST:PORT`); return its SQLAlchemy URL."""
    name = "t" + uuid4().hex
    with psycopg.connect(f"postgresql://{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    return f"postgresql+psycopg://{server}/{name}"


def drop_database(url: str) -> None:
    """Remove a database that `new_database` made, whoever is still connected."""
    server, _, name = url.removeprefix("postgresql+psycopg://").rpartition("/")
    with psycopg.connect(f"postgresql://{server}/postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
