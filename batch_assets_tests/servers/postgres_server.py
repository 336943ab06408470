"""A PostgreSQL that tests may kill: a cluster of its own, with fsync."""

import os
import pwd
import shutil
import signal
from pathlib import Path
from typing import ClassVar

from batch_assets_tests.servers.server import Server


class PostgresServer(Server):
    """A PostgreSQL server, whose superuser is `postgres`; it lets in whoever comes from 127.0.0.1.

    Args:
        settings: lines of postgresql.conf, like `{"max_connections": "20"}`.
    """

    wants: ClassVar[str] = "PostgreSQL's server"
    stopping: ClassVar[signal.Signals] = signal.SIGINT  # it does not wait until its clients are gone

    @classmethod
    def missing(cls) -> bool:
        return _programs() is None

    @property
    def user(self) -> str:
        """It refuses to run as root."""
        return _unprivileged() if os.getuid() == 0 else ""

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def prepare(self) -> None:
        if self.user:
            entry = pwd.getpwnam(self.user)
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
        arguments = [
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            f"--pgdata={self.data}",
        ]
        self.run([f"{_programs()}/initdb", *arguments])
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            **self.settings,
        }
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    @property
    def command(self) -> list[str]:
        return [f"{_programs()}/postgres", "-D", str(self.data)]

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def answers(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(self.url, connect_timeout=5) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False


def _programs() -> Path | None:
    """The folder of `initdb` and `postgres`; Debian keeps it out of the PATH, one for each version."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next(
        (folder for folder in reversed(folders) if (folder / "postgres").exists() and (folder / "initdb").exists()), None
    )


def _unprivileged() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
