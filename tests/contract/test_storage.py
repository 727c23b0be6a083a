"""What both engines promise: transactions, snapshots, migrations that run forward, clear refusals."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from usmed.domain.audit import AuditEvent, AuditEventType, ChainHead, chain_record
from usmed.domain.errors import ConfigurationError
from usmed.platform.audit_log import AuditLog
from usmed.platform.storage import (
    PLATFORM_CHAIN,
    Database,
    StorageError,
    migrate,
    open_database,
    version_table,
)

HUB_CHAIN = "usmed.hub.migrations"
SPAWN = multiprocessing.get_context("spawn")

from tests_support import NOW  # noqa: E402


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url, [HUB_CHAIN])
    yield opened
    opened.close()
