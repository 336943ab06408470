"""Real servers for tests: a process each, which a test may kill and start again.

`make servers` brings what a machine lacks of them. A test asks for one by a fixture of `fixtures.py`.
"""

from batch_assets_tests.servers.postgres_server import PostgresServer
from batch_assets_tests.servers.redis_server import RedisServer
from batch_assets_tests.servers.server import Server, ServerFailed, ServerMissing

__all__ = ["PostgresServer", "RedisServer", "Server", "ServerFailed", "ServerMissing"]
