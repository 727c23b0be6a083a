"""Runs a chain of migrations forward with Alembic. `storage.py` says when, and holds the transaction."""

from importlib.resources import files

from sqlalchemy import Connection

from usmed.platform.lean import without
from usmed.platform.storage import StorageError

with without("pygments"):
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError


def upgrade(chain: str, connection: Connection, version_table: str, revision: str) -> None:
    """Run one chain to `revision` in the caller's transaction.

    Args:
        chain: package of migrations, such as `usmed.hub.migrations`.
        connection: in a transaction.
        version_table: the table that says how far the chain has run.
        revision: where to stop; `head` is the newest.

    Raises:
        StorageError: the database was written by a newer version; there is no way back.
    """
    package, _, name = chain.rpartition(".")
    config = Config()
    options = {
        "script_location": str(files("usmed.platform").joinpath("migration_environment")),
        "version_locations": str(files(package).joinpath(name)),
        "path_separator": "newline",
    }
    for option, value in options.items():
        config.set_main_option(option, value.replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table
    _refuse_newer(chain, config, connection)
    command.upgrade(config, revision)


def _refuse_newer(chain: str, config: Config, connection: Connection) -> None:
    context = MigrationContext.configure(connection, opts={"version_table": config.attributes["version_table"]})
    script = ScriptDirectory.from_config(config)
    for head in context.get_current_heads():
        try:
            script.get_revision(head)
        except CommandError as error:
            raise StorageError(
                f"the database was written by a newer version of this software ({chain} is at {head!r},"
                f" this one knows up to {script.get_current_head()!r}): start that version or restore a backup"
            ) from error
