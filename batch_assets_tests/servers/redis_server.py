"""A Redis that tests may kill. Every write is in its append-only file before it is answered."""

import shutil
from collections.abc import Mapping
from typing import ClassVar

from batch_assets_tests.servers.server import Server


class RedisServer(Server):
    """A Redis server.

    Args:
        settings: lines of redis.conf, like `{"maxmemory": "32mb"}`, `{"appendfsync": "everysec"}`, or an account:
            `{"user": "reader on >word ~* +@read"}`.
        password: what clients have to say; None lets everybody in.
    """

    wants: ClassVar[str] = "redis-server"

    def __init__(self, settings: Mapping[str, str] | None = None, password: str | None = None) -> None:
        super().__init__(settings)
        self.password = password

    @classmethod
    def missing(cls) -> bool:
        return shutil.which("redis-server") is None

    def prepare(self) -> None:
        settings = {
            "port": str(self.port),
            "cluster-port": str(self.port + 1),  # else 10000 above, where connections may have theirs
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "always",
            **({"requirepass": self.password} if self.password else {}),
            **self.settings,
        }
        (self.folder / "redis.conf").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))

    @property
    def command(self) -> list[str]:
        return [str(shutil.which("redis-server")), str(self.folder / "redis.conf")]

    @property
    def url(self) -> str:
        account = f":{self.password}@" if self.password else ""
        return f"redis://{account}127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        import redis

        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            try:
                return bool(client.ping())
            except redis.exceptions.BusyLoadingError:
                return False
            except (redis.exceptions.AuthenticationError, redis.exceptions.ResponseError):
                return True  # a test has changed the accounts; who refuses is there
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
                return False
