"""Rows in any order, as they come from elsewhere -> a source's rows in the order of their keys."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field
from typing_extensions import override

from batch_assets.errors import BadKeys, BatchAssetsError, SourceError
from batch_assets.features.provenance import Provenance, SourceTable, sha256_of
from batch_assets.ports import Port
from batch_assets.sources.closed import bytes_of, closed_session, first_line, quoted_name, require_keys
from batch_assets.sources.lineage import Lineage, same_columns
from batch_assets.sources.source import SOURCES, STREAMED_KINDS, Read, Source

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_BATCH_ROWS = 1 << 17


@dataclass(frozen=True)
class Streamed:
    """The rows of a day in any order, which are read once, and what they are read from.

    `said` are texts beside the settings that decided the rows, like a query's. `counted` is asked when the last row has come:
    what is known of the table only then, by the names of its fields.
    """

    rows: "pa.RecordBatchReader"
    table: SourceTable
    said: tuple[str, ...] = ()
    counted: Callable[[], Mapping[str, int]] = dict


class StreamedSource(Source):
    """A source whose rows come in any order. They are put in order here, on disk if they do not fit in memory.

    An adapter says in `streamed` what its rows are; what it raises while they are read arrives as it was raised. It is also
    a table of the duckdb source, under `tables`, if it is written there with its kind.
    """

    memory_limit: str = Field("4GB", description="What may be used before rows are sorted on disk.")

    @property
    @abstractmethod
    def table_name(self) -> str:
        """What messages and `quality.sources.not_daily` call the one table."""

    @abstractmethod
    def streamed(self, day: str, spill: Path, timezone: str) -> AbstractContextManager[Streamed]:
        """The rows of a day, all from one state of what they are read from; arguments and errors are those of `read`."""

    @override
    def table_names(self) -> tuple[str, ...]:
        return (self.table_name,)

    @override
    def held(self) -> int | None:
        return bytes_of(self.memory_limit)

    @override
    def lineage(self, columns: Collection[str], tables: Collection[str]) -> Lineage:
        """The columns of the one table, as they are."""
        return same_columns(self.table_name, columns) if self.table_name in tables else {}

    @override
    @contextmanager
    def read(self, day: str, keys: Sequence[str], spill: Path, timezone: str = "UTC") -> Iterator[Read]:
        with (
            self.streamed(day, spill, timezone) as streamed,
            in_order(streamed.rows, self.table_name, keys, spill, self.memory_limit) as rows,
        ):
            provenance = Provenance(
                day=date.fromisoformat(day),
                timezone=timezone,
                settings_sha256=sha256_of(self.model_dump_json(), *streamed.said),
                tables=(streamed.table.model_copy(update=streamed.counted()),),
            )
            try:
                yield Read(rows, provenance)
            except BadKeys as error:
                raise BadKeys(f"{self.table_name} for {day}: {error}", *error.examples) from error


STREAMED: Port[StreamedSource] = Port("table", SOURCES.group, STREAMED_KINDS)
"""Every kind of source that can be a table of a query."""


class Kept:
    """Batches that DuckDB reads, and what was raised when one was asked for, which DuckDB would make a text of."""

    def __init__(self, rows: "pa.RecordBatchReader") -> None:
        self._rows = rows
        self.raised: BaseException | None = None

    def reader(self) -> "pa.RecordBatchReader":
        """The same rows."""
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(self._rows.schema, self._batches())

    def _batches(self) -> "Iterator[pa.RecordBatch]":
        try:
            yield from self._rows
        except BaseException as error:
            self.raised = error
            raise


@contextmanager
def in_order(
    rows: "pa.RecordBatchReader", table: str, keys: Sequence[str], spill: Path, memory_limit: str
) -> "Iterator[pa.RecordBatchReader]":
    """The same rows in ascending order of their keys: text by its bytes in UTF-8. All of them are read before the block begins.

    Raises:
        SourceError: a key is no column, or there is not enough memory or disk; or it is what reading the rows raises.
    """
    import duckdb
    import pyarrow as pa

    require_keys(table, rows.schema.names, keys)
    kept = Kept(rows)
    try:
        with closed_session(spill, memory_limit) as connection:
            connection.register("rows", kept.reader())
            connection.execute("SET lock_configuration = true")
            by_key = f"SELECT * FROM rows ORDER BY {', '.join(map(quoted_name, keys))}"
            ordered = connection.sql(by_key).to_arrow_reader(_BATCH_ROWS)
            first = list(islice(ordered, 1))  # which is known when the last row has come
            yield pa.RecordBatchReader.from_batches(ordered.schema, chain(first, ordered))
    except (duckdb.Error, pa.ArrowException) as error:
        if isinstance(kept.raised, BatchAssetsError):
            raise kept.raised from error
        raise SourceError(f"The rows of {table} cannot be put in order: {first_line(kept.raised or error)}.") from error


def fill(
    connection: "duckdb.DuckDBPyConnection", name: str, source: StreamedSource, day: str, spill: Path, timezone: str
) -> tuple[SourceTable, tuple[str, ...]]:
    """Make a table of a session from a source's rows.

    Returns:
        What it was read from, and the texts beside the settings that decided its rows.

    Raises:
        What `StreamedSource.streamed` does.
    """
    import duckdb

    with source.streamed(day, spill, timezone) as streamed:
        kept = Kept(streamed.rows)
        connection.register("streamed", kept.reader())
        try:
            connection.execute(f"CREATE TABLE {quoted_name(name)} AS SELECT * FROM streamed")
        except duckdb.Error as error:
            if isinstance(kept.raised, BatchAssetsError):
                raise kept.raised from error
            raise
        connection.unregister("streamed")
        return streamed.table.model_copy(update={**streamed.counted(), "name": name}), streamed.said
