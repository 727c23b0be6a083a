"""Alembic runs this for every chain; `usmed.platform.storage` passes the connection and the version table."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    # Our SQLite connections begin their transactions themselves, so DDL is transactional there too.
    transactional_ddl=True,
)
context.run_migrations()
