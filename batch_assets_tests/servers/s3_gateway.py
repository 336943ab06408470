"""An S3 server that tests may kill: versitygw over a folder. It decides races of conditional puts as S3 itself does."""

import uuid
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import ClassVar

from batch_assets_tests.servers.server import Server

PROGRAM = Path(__file__).parent.parent.parent / ".servers" / "versitygw" / "versitygw"
"""Where `fetch.py` builds it."""

VERSION = "v1.8.0"


class S3Gateway(Server):
    """A versitygw server; its buckets are folders.

    Args:
        settings: options of its command line, without the two dashes.
    """

    wants: ClassVar[str] = "versitygw"

    @classmethod
    def missing(cls) -> bool:
        return not PROGRAM.exists()

    def prepare(self) -> None:
        (self.folder / "buckets").mkdir()

    @property
    def command(self) -> list[str]:
        said = {"access": "tests", "secret": "the-secret-of-tests", "port": f"{self.host}:{self.port}", **self.settings}
        options = [word for name, value in said.items() for word in (f"--{name}", value)]
        return [str(PROGRAM), *options, "posix", str(self.folder / "buckets")]

    @property
    def host(self) -> str:
        return "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What leads clients to it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "the-secret-of-tests",
            "AWS_REGION": "us-east-1",
        }

    def answers(self) -> bool:
        connection = HTTPConnection(self.host, self.port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status < 500
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def new_bucket(self) -> str:
        """The `s3://` root of a bucket that nobody else uses."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        (self.folder / "buckets" / name).mkdir()
        return f"s3://{name}"
