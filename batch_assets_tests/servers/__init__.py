"""Real servers for tests: a process each, which a test may kill and start again.

`make servers` brings what a machine lacks of them; the fixtures of `conftest.py` skip a test whose server is missing.
"""

from batch_assets_tests.servers.cassandra_server import CassandraServer
from batch_assets_tests.servers.kafka_server import KafkaServer
from batch_assets_tests.servers.postgres_server import PostgresServer
from batch_assets_tests.servers.redis_server import RedisServer
from batch_assets_tests.servers.s3_gateway import S3Gateway
from batch_assets_tests.servers.server import Server, ServerFailed, ServerMissing
from batch_assets_tests.servers.shared import SharedServer, shared_cassandra

__all__ = [
    "CassandraServer",
    "KafkaServer",
    "PostgresServer",
    "RedisServer",
    "S3Gateway",
    "Server",
    "ServerFailed",
    "ServerMissing",
    "SharedServer",
    "shared_cassandra",
]
