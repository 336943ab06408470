"""Where an Iceberg table is found: by its metadata, or by a catalog, whose secrets are in no message."""

import os
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from batch_assets.errors import SourceError
from batch_assets.secret import Secret
from batch_assets.sources.closed import first_line
from batch_assets.storage.endpoint import plain_http_allowed, s3_endpoint

_SECRETS = re.compile(r"password|secret|token(?!-)|credential|access-key|sas|account-key", re.IGNORECASE)
"""Names of properties whose values nobody may see."""

_CATALOG_ERRORS = (
    ("sqlalchemy.exc", "SQLAlchemyError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("thrift.Thrift", "TException"),
)
"""What the libraries raise by which pyiceberg speaks to a catalog; only that of the catalog's kind is loaded."""

_OF_DAMAGE = (EOFError, SystemError, TypeError, ArithmeticError, AssertionError, struct.error, zlib.error)
"""What pyiceberg's reader of Avro raises in the middle of a damaged manifest, which has no checksum."""


@dataclass(frozen=True)
class FoundTable:
    """pyiceberg's table, and what no message about it may say."""

    table: Any
    secrets: tuple[str, ...] = field(default=(), repr=False)


def accepted_properties(properties: Mapping[str, str | Secret]) -> dict[str, str | Secret]:
    """The properties of a catalog as settings say them. Raises ValueError if one is a secret that can be read there."""
    for name, value in properties.items():
        if isinstance(value, str) and (_SECRETS.search(name) or urlsplit(value).password):
            raise ValueError(f"the property {name} is a secret, or has one in it: say {{env: NAME}}, and set that variable")
    return dict(properties)


@contextmanager
def table_of_catalog(properties: Mapping[str, str | Secret], name: str) -> Iterator[FoundTable]:
    """A table of a catalog, by its name in it, like db.features; the catalog is open as long as the block lasts.

    Raises:
        SourceError: there is no such table, or the catalog cannot be had.
        ConfigError: a secret's variable is not set.
    """
    from pyiceberg.catalog import load_catalog

    secrets = tuple(value.reveal() for value in properties.values() if isinstance(value, Secret))
    known = {key: value.reveal() if isinstance(value, Secret) else value for key, value in properties.items()}
    called = known.pop("name", "default")
    for key in ("uri", "s3.endpoint"):
        _require_tls(f"The catalog {called}", known.get(key, ""))

    def opening() -> AbstractContextManager[None]:
        return explained(
            lambda reason: f"The Iceberg table {name} of the catalog {called} cannot be opened: {reason}.", secrets
        )

    with opening():
        catalog = load_catalog(called, **{**_storage_properties(), **known})
    with closing(catalog):
        with opening():
            table = catalog.load_table(name)
        yield FoundTable(table, secrets)


@contextmanager
def table_of_metadata(place: str) -> Iterator[FoundTable]:
    """A table by its .metadata.json, or by its folder in a hadoop catalog. Raises SourceError if it cannot be read."""
    from pyiceberg.io import load_file_io
    from pyiceberg.table import StaticTable

    with explained(lambda reason: f"The Iceberg table {place} cannot be opened: {reason}."):
        properties = _storage_properties()
        if not place.endswith(".metadata.json"):
            place = _newest_metadata(place.rstrip("/"), load_file_io(properties, place))
        table = StaticTable.from_metadata(place, properties)
    yield FoundTable(table)


def _newest_metadata(folder: str, io: Any) -> str:
    """The metadata with the highest number, which can be higher than the one in the hint: it is written after them."""
    hint = io.new_input(f"{folder}/metadata/version-hint.text")
    if not hint.exists():
        raise SourceError(
            f"The Iceberg table {folder} has no metadata/version-hint.text, by which a hadoop catalog finds what is newest: "
            "name a .metadata.json, or the catalog."
        )
    with hint.open() as file:
        number = int(file.read().decode())
    newest = None
    while found := _metadata(folder, number, io):
        newest, number = found, number + 1
    if newest is None:
        raise SourceError(f"The Iceberg table {folder} has no metadata v{number}, which its version-hint.text names.")
    return newest


def _metadata(folder: str, number: int, io: Any) -> str | None:
    names = (f"{folder}/metadata/v{number}{packed}.metadata.json" for packed in ("", ".gz"))
    return next((name for name in names if io.new_input(name).exists()), None)


def _storage_properties() -> dict[str, str]:
    """How a bucket is reached, as the environment says it; credentials are found there by whoever reads the bucket."""
    endpoint, region = s3_endpoint(), os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    _require_tls("A bucket", endpoint)
    return {key: value for key, value in {"s3.endpoint": endpoint, "s3.region": region}.items() if value}


def _require_tls(what: str, url: str) -> None:
    if url.startswith("http://") and not plain_http_allowed(url):
        raise SourceError(
            f"{what} would be reached at {url} without TLS: name an https:// address, or set AWS_ALLOW_HTTP=true."
        )


@contextmanager
def explained(sentence: Callable[[str], str], secrets: tuple[str, ...] = ()) -> Iterator[None]:
    """What pyiceberg and its helpers raise becomes a sentence about its reason, without secrets."""
    try:
        yield
    except _errors() as error:
        reason = _reason(error)
        for secret in secrets:
            reason = reason.replace(secret, "…")
        raise SourceError(sentence(reason)) from (None if secrets else error)


def _reason(error: BaseException) -> str:
    """What an error says, in one line; of metadata that do not fit, what does not."""
    for one in (error, error.__cause__):
        if isinstance(one, ValidationError):
            found = one.errors(include_url=False)[0]
            return " ".join([*map(str, found["loc"]), found["msg"]]).partition("\n")[0]
    return first_line(error)


def _errors() -> tuple[type[BaseException], ...]:
    import pyarrow as pa
    import pyiceberg.exceptions

    own = [found for found in vars(pyiceberg.exceptions).values() if isinstance(found, type) and issubclass(found, Exception)]
    loaded = [getattr(sys.modules[module], name) for module, name in _CATALOG_ERRORS if module in sys.modules]
    return (pa.ArrowException, OSError, ValueError, LookupError, NotImplementedError, *_OF_DAMAGE, *own, *loaded)
