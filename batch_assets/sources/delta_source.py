"""`kind: delta`: one version of a Delta table that holds a day's features as they are, one row for each key."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import AfterValidator, Field
from typing_extensions import override

from batch_assets.errors import SourceError
from batch_assets.features.provenance import SourceFile
from batch_assets.ports import extra
from batch_assets.sources.closed import first_line, quoted, quoted_name
from batch_assets.sources.days import DayColumn, FileDays, Span
from batch_assets.sources.lake import LakeFile, LakeSource, accepted_place, damage_among, files_of
from batch_assets.sources.streamed import Streamed
from batch_assets.storage.endpoint import plain_http_allowed, s3_endpoint, said_by_server

if TYPE_CHECKING:
    import pyarrow as pa

_ENGINE = {
    "datafusion.execution.batch_size": "32768",
    "datafusion.execution.parquet.coerce_int96": "us",  # by nanoseconds, its default, the year 1 becomes 1754 without a word
}

_PATIENCE = {"timeout": "120s", "connect_timeout": "10s", "max_retries": "5", "retry_timeout": "60s"}


class DeltaSource(LakeSource):
    """A Delta table, of which the rows of the partition's day are taken from one version.

    Files of other days are not read, deleted rows do not come, and what is written after the version was chosen never shows.
    The table is called `rows` in messages and in `quality.sources.not_daily`, and its `day` is what the check calls its
    event_date.

    Example:
        A table in a bucket, to which AWS_* environment variables lead::

            source: {kind: delta, path: s3://lake/features, day: day}
    """

    kind: Literal["delta"] = "delta"
    path: Annotated[str, AfterValidator(accepted_place)] = Field(
        description="The table's folder: an absolute path, or an s3:// URI to which AWS_* environment variables lead."
    )
    version: int | None = Field(None, description="The version that is read; by default the newest one.", ge=0)

    @override
    @contextmanager
    def streamed(self, day: str, spill: Path, timezone: str) -> Iterator[Streamed]:
        version = _Version.opened(self.path, self.version)
        yield self.rows_of(version, self.path, day, timezone)


@dataclass(frozen=True)
class _Version:
    """One version of a Delta table; `table` is deltalake's, which has read the log."""

    path: str
    table: Any

    @classmethod
    def opened(cls, path: str, number: int | None) -> "_Version":
        """A version by its number, else the newest one. Raises SourceError."""
        deltalake = extra("deltalake", "delta", "The source delta")
        at = f" at version {number}" if number is not None else ""
        with _explained(lambda reason: f"The Delta table {path} cannot be opened{at}: {reason}."):
            return cls(path, deltalake.DeltaTable(path, version=number, storage_options=storage_options(path)))

    @property
    def named(self) -> str:
        return f"The Delta table {self.path} ({self.pinned})"

    @property
    def pinned(self) -> str:
        return f"version {self.table.version()}"

    @cached_property
    def schema(self) -> "pa.Schema":
        import pyarrow as pa

        return pa.schema(self.table.schema().to_arrow())

    @property
    def rows(self) -> int:
        return sum(self._rows) - sum(self._deleted)

    @property
    def told(self) -> tuple[str, ...]:
        deleted = sum(self._deleted)
        return (f"{deleted:,} rows are left out by deletion vectors",) if deleted else ()

    def files(self, column: DayColumn | None) -> list[LakeFile]:
        days = self._days(column) if column else [FileDays()] * len(self._paths)
        sizes, written = self._said("size_bytes"), self._said("modification_time")
        listed = zip(self._paths, sizes, self._rows, written, days, strict=True)
        return [
            LakeFile(SourceFile(path=path, size=size, rows=rows, stamp=str(stamp)), known)
            for path, size, rows, stamp, known in listed
        ]

    def read(self, names: Sequence[str], column: DayColumn | None = None, span: Span | None = None) -> "pa.RecordBatchReader":
        import deltalake
        import pyarrow as pa

        where = _condition(column, span) if column and span else "true"
        with self._read(column, span):
            engine = deltalake.QueryBuilder(_ENGINE).register("read", self.table)
            found = engine.execute(f"SELECT {', '.join(map(quoted_name, names))} FROM read WHERE {where}")
            rows = pa.RecordBatchReader.from_stream(found)

        def batches() -> "Iterator[pa.RecordBatch]":
            with self._read(column, span):
                yield from rows

        return pa.RecordBatchReader.from_batches(rows.schema, batches())

    @contextmanager
    def _read(self, column: DayColumn | None, span: Span | None) -> Iterator[None]:
        """What is raised while rows of a span of days are read becomes a sentence about the file that is the cause."""

        def sentence(reason: str) -> str:
            damage = damage_among(files_of(self, column, span), self._opened)
            return f"{self.named}: {damage or f'it cannot be read: {reason}'}."

        with _explained(sentence):
            yield

    @cached_property
    def _actions(self) -> "pa.Table":
        """A row for each data file, with its statistics."""
        import pyarrow as pa

        return pa.table(self.table.get_add_actions()).combine_chunks()

    def _said(self, name: str) -> list[Any]:
        return list(self._actions[name].to_pylist())

    def _said_of(self, what: str, column: str) -> "pa.Array | None":
        """What the log says of a column in each file: its `min`, `max`, `null_count` or `partition`; None if it does not."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if what not in self._actions.schema.names or self._actions.schema.field(what).type.get_field_index(column) < 0:
            return None
        said = pc.struct_field(self._actions[what], [column])
        return said.combine_chunks() if isinstance(said, pa.ChunkedArray) else said

    @cached_property
    def _paths(self) -> list[str]:
        """Where each data file is; the log writes its name as a part of a URI."""
        return [f"{self.path.rstrip('/')}/{unquote(path)}" for path in self._said("path")]

    @cached_property
    def _rows(self) -> list[int]:
        """How many rows each data file has, deleted ones among them: as the log says, else as the file does."""
        import pyarrow.parquet as pq

        def counted(path: str) -> int:
            with _explained(lambda reason: f"{self.named}: {path} cannot be read: {reason}."), self._opened(path) as file:
                return int(pq.read_metadata(file).num_rows)

        said = zip(self._paths, self._said("num_records"), strict=True)
        return [counted(path) if rows is None else rows for path, rows in said]

    @cached_property
    def _deleted(self) -> list[int]:
        """How many rows of each data file its deletion vector leaves out."""
        import pyarrow as pa

        if "deletionVectors" not in (self.table.protocol().reader_features or ()):
            return [0] * len(self._paths)
        with _explained(lambda reason: f"{self.named}: its deletion vectors cannot be read: {reason}."):
            vectors = pa.RecordBatchReader.from_stream(self.table.deletion_vectors()).read_all()
        kept = zip(vectors["filepath"].to_pylist(), vectors["selection_vector"], strict=True)
        deleted = {unquote(path): mask.values.false_count for path, mask in kept}
        uris = [unquote(path if "://" in path else f"{self.table.table_uri}{path}") for path in self._said("path")]
        if foreign := deleted.keys() - set(uris):
            raise SourceError(
                f"{self.named} has a deletion vector of {min(foreign)}, which is none of its files; copy it whole."
            )
        return [deleted.get(uri, 0) for uri in uris]

    def _days(self, column: DayColumn) -> list[FileDays]:
        import pyarrow as pa
        import pyarrow.compute as pc

        first, last, nulls = (self._said_of(what, column.name) for what in ("min", "max", "null_count"))
        folders = self._said_of("partition", column.name)
        if folders is not None:
            first, last, nulls = folders, folders, pc.if_else(pc.is_null(folders), pa.array(self._rows, pa.int64()), 0)
        if first is None or last is None or nulls is None:
            return [FileDays()] * len(self._paths)
        ends = (column.days(values.cast(column.type)).to_pylist() for values in (first, last))
        return [FileDays.told(*one) for one in zip(self._rows, nulls.to_pylist(), *ends, self._deleted, strict=True)]

    def _opened(self, path: str) -> "pa.NativeFile":
        from deltalake.fs import DeltaStorageHandler
        from pyarrow.fs import PyFileSystem

        files = PyFileSystem(DeltaStorageHandler(self.table.table_uri, storage_options(self.path)))
        return files.open_input_file(path.removeprefix(self.path.rstrip("/")).lstrip("/"))


def _condition(column: DayColumn, span: Span) -> str:
    """What the values of a span of days meet, in SQL of the engine."""
    name, kind = quoted_name(column.name), quoted(_kind(column))
    bounds = zip((">=", "<"), column.bounds(span), strict=True)
    met = [f"{name} {sign} arrow_cast({quoted(value)}, {kind})" for sign, value in bounds if value]
    return " AND ".join(met) or "true"


def _kind(column: DayColumn) -> str:
    """What the engine calls the type of a column."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        return 'Timestamp(Microsecond, Some("UTC"))' if column.in_time else "Timestamp(Microsecond, None)"
    return "Utf8" if column.is_text else "Date32"


def storage_options(path: str) -> dict[str, str]:
    """How a bucket is reached; credentials come from the environment."""
    if not path.startswith("s3://"):
        return {}
    endpoint = s3_endpoint()
    allowed = {"allow_http": str(plain_http_allowed(endpoint)).lower()}
    return {**_PATIENCE, **allowed, **({"aws_endpoint": endpoint} if endpoint else {})}


@contextmanager
def _explained(sentence: Callable[[str], str]) -> Iterator[None]:
    """What deltalake raises becomes a sentence about its reason."""
    import pyarrow as pa
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (DeltaError, pa.ArrowException, OSError, ValueError) as error:
        raise SourceError(sentence(reason_of(error))) from error


def reason_of(error: BaseException) -> str:
    """Why deltalake could not do something, as a part of a sentence."""
    if "No files in log segment" in str(error):
        return "there is no Delta table"
    return said_by_server(error) or first_line(error).partition("<?xml")[0].rstrip(" :.")
