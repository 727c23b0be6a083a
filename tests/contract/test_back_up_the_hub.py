"""The how-to of backup and restore: its commands as written, with a real PostgreSQL; and how a restored hub heals."""

import os
import re
import socket
import subprocess
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from contract.hub_region import Clock, Region, study
from contract.test_hub_region import running
from support.postgresql import PROGRAMS
from support.signed_region import SignedRegion
from usmed.domain.study_record import digests, parse_study_record

PAGE = Path(__file__).parents[2] / "docs/how-to/back-up-the-hub.md"

# What `docker compose` is on the page, for a server that runs here.
COMPOSE = """
PATH={programs}:$PATH
stop() {{ pg_ctl --pgdata {data} --silent --mode immediate stop; }}
start() {{ pg_ctl --pgdata {data} --silent --log {folder}/server.txt --options "-p {port} -k {socket}" start; }}
compose() {{
    case "$1 $2" in
        "exec -T") shift 3; "$@" ;;
        "run --rm") shift 6; [ ! -f {data}/postmaster.pid ] && bash "$@" ;;
        "restart postgres") stop && start ;;
        "stop hub") [ -z "${{3:-}}" ] || stop ;;
        "up -d") [ -f {data}/postmaster.pid ] || start ;;
        *) echo "what is compose $*?"; return 1 ;;
    esac
}}
"""


@dataclass
class Server:
    """A PostgreSQL in a folder that is laid out as in the image."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        """Return the database's URL."""
        return f"postgresql+psycopg://usmed@127.0.0.1:{self.port}/usmed"

    def run(self, block: str) -> None:
        """Run shell commands, those of the page among them."""
        data, socket_folder = self.folder / "postgresql", self.folder / "run"
        places = {"/var/lib/usmed": str(self.folder), "/run/usmed": str(socket_folder)}
        for name, place in places.items():
            block = block.replace(name, place)
        compose = COMPOSE.format(
            programs=PROGRAMS, data=data, folder=self.folder, port=self.port, socket=socket_folder
        )
        done = subprocess.run(
            ["bash", "-euc", compose + block], cwd=self.folder, check=False, capture_output=True, text=True,
            env={**os.environ, "PGPORT": str(self.port)},
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = Path("/tmp") / f"usmed-{tmp_path_factory.mktemp('backup').name}-{os.getpid()}-{time.monotonic_ns()}"
    (folder / "run").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        one = Server(folder, probe.getsockname()[1])
    made = "--auth trust --username postgres --encoding UTF8 --locale C.UTF-8 --set unix_socket_directories=/run/usmed"
    one.run(f"initdb --pgdata /var/lib/usmed/postgresql {made} > /dev/null; start")
    one.run("createuser -h /run/usmed -U postgres usmed; createdb -h /run/usmed -U postgres -O usmed usmed")
    yield one
    one.run("stop; rm -rf /var/lib/usmed")


def blocks() -> list[str]:
    """Return the page's shell commands but the first, which says what `compose` is."""
    found = re.findall(r"^```sh\n(.*?)```", PAGE.read_text("utf-8"), flags=re.M | re.S)
    assert found[0].startswith("compose()")
    return [textwrap.dedent(one) for one in found[1:]]


STUDIES = [study(f"1.{n}", ("IASI", "7")) for n in range(1, 60)]


def differing(hub: Region, studies: list[dict[str, Any]]) -> list[str]:
    said = digests(parse_study_record(one) for one in studies)
    return list(hub.post("iasi", "/v1/studies/digest", {"buckets": said})["differ"])


def changes(hub: Region, since: int) -> int:
    return int(hub.post("iasi", "/v1/consents/changes", {"since": since})["cursor"])


def heals(hub: Region, cursor: int) -> None:
    """The node finds what was lost, and brings it."""
    report = hub.audit.verify()
    assert report.problem == ""
    lost = differing(hub, STUDIES)
    assert lost
    for bucket in lost:
        kept = [one for one in STUDIES if digests([parse_study_record(one)]).keys() == {bucket}]
        hub.post("iasi", "/v1/studies/replace", {"bucket": bucket, "records": kept})
    assert differing(hub, STUDIES) == []
    # By this a node knows that what it remembers of consents may be newer than what the hub says.
    assert changes(hub, cursor) < cursor
    answer = hub.resolve("bacau", "IASI", "7")
    assert answer["holders"] == [{"hospital": "iasi", "studies": len(STUDIES)}]


def test_a_dump_is_restored_and_the_hub_heals(server: Server) -> None:
    dump, restore, *_ = blocks()
    signed, clock = SignedRegion(), Clock()
    with running(server.url, signed, clock) as hub:
        hub.feed("iasi", *STUDIES[:40])
        hub.permit("IASI", "7")
        server.run(dump)
        hub.feed("iasi", *STUDIES[40:])
        hub.permit("IASI", "8")
        cursor = changes(hub, 0)
    server.run(restore)
    with running(server.url, signed, clock) as hub:
        heals(hub, cursor)


def test_base_backup_and_archive_are_restored_and_the_hub_heals(server: Server) -> None:
    _, _, once, base, restore = blocks()
    signed, clock = SignedRegion(), Clock()
    server.run(once)
    with running(server.url, signed, clock) as hub:
        hub.feed("iasi", *STUDIES[:20])
        server.run(base)
        hub.feed("iasi", *STUDIES[20:40])
        hub.permit("IASI", "7")
        superuser = server.url.replace("+psycopg", "").replace("usmed@", "postgres@")
        with psycopg.connect(superuser, autocommit=True) as admin:
            # What `archive_timeout` does within a minute.
            segment = admin.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
        assert segment is not None
        archived = server.folder / "backup" / "log" / segment[0]
        deadline = time.monotonic() + 60
        while not archived.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        hub.feed("iasi", *STUDIES[40:])
        hub.permit("IASI", "8")
        cursor = changes(hub, 0)
    # The archive is all there is: the last segment went with the disk.
    server.run(restore)
    with running(server.url, signed, clock) as hub:
        with hub.database.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM study").scalar_one() == 40
        heals(hub, cursor)
