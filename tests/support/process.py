"""Processes of tests, ended by their pid; ports; waiting."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_given_ports: set[int] = set()


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that nobody uses now, and never the same again: some who get one use it at all addresses."""
    while True:
        with socket.socket() as probe:
            probe.bind((address, 0))
            port = int(probe.getsockname()[1])
        if port not in _given_ports:
            _given_ports.add(port)
            return port


def eventually[T](look: Callable[[], T], timeout_s: float = 20.0, what: str = "") -> T:
    """Return the first true value that `look` gives."""
    end = time.monotonic() + timeout_s
    while True:
        value = look()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s} s: {what or look}")
        time.sleep(0.05)


class Process:
    """A process of a test, ended by its pid."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str], cwd: Path) -> None:
        self.log = log
        self._arguments, self._environment, self._cwd = list(arguments), dict(environment), cwd
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._arguments, stdout=output, stderr=output, env={**os.environ, **self._environment}, cwd=self._cwd
            )

    @property
    def pid(self) -> int:
        """Return its process number."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Tell whether it runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self, how: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """End it and return its exit code."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    @property
    def exit_code(self) -> int | None:
        """Return the exit code, or None while it runs; negative: the signal that ended it."""
        return self._process.poll() if self._process is not None else None

    def suspend(self) -> None:
        """Let it accept connections and never answer."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for it to end by itself; return its exit code."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def text(self) -> str:
        """Return what it has logged."""
        return self.log.read_text("utf-8", "replace")
