"""How alembic runs the migrations: in the transaction that ``migrate.sync`` has begun."""

from alembic import context

from volsvc.db import schema


def _run() -> None:
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=schema.metadata,
        transactional_ddl=True,
    )
    context.run_migrations()


_run()
