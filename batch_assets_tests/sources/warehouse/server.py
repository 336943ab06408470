"""What the tests of the warehouse source share: a PostgreSQL that asks for passwords, and what somebody asks of it."""

from collections.abc import Callable

import psycopg
import pyarrow as pa
from typing_extensions import override

from batch_assets.features.provenance import Provenance
from batch_assets_tests.servers import PostgresServer

Read = tuple[pa.Table, Provenance]
Ask = Callable[..., Read]


class Guarded(PostgresServer):
    """A PostgreSQL that asks everybody but its superuser for a password."""

    @override
    def prepare(self) -> None:
        super().prepare()
        lines = ("host all postgres 127.0.0.1/32 trust", "host all all 127.0.0.1/32 scram-sha-256")
        (self.data / "pg_hba.conf").write_text("\n".join(lines) + "\n")


def execute(server: PostgresServer, *statements: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
