"""PORT: (a day, key columns) -> its rows as record batches in ascending order of their keys, and what they were read from."""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batch_assets.features.provenance import Provenance
from batch_assets.ports import Adapter, Port
from batch_assets.sources.lineage import Lineage

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Read:
    """The rows of a day, which stream, and what they are read from."""

    rows: "pa.RecordBatchReader"
    provenance: Provenance


class Source(Adapter):
    """Where the rows of a pipeline come from. The fields of an adapter are what the YAML says under `features.source`.

    A secret among them is a `batch_assets.secret.Secret`: whatever else stands there is shown, dumped and hashed.

    Example:
        Rows of a day, in the order of their users::

            source = ParquetSource(path="/data/features", day="day", hive=True)
            with source.read("2026-01-31", ["user_id"], Path("/tmp"), "Europe/Berlin") as read:
                table = read.rows.read_all()
            print(read.provenance.tables[0].rows_of_day)
    """

    @abstractmethod
    def read(self, day: str, keys: Sequence[str], spill: Path, timezone: str = "UTC") -> AbstractContextManager[Read]:
        """The rows of one day. When the block ends, they must have come from one state of whatever they were read from.

        Args:
            day: the partition, YYYY-MM-DD.
            keys: the columns that say whom a row is about, at least one; the rows come in ascending order of the first, then of
                the second, and so on. Text is in the order of its bytes in UTF-8.
            spill: a local folder, which is there, for what does not fit in memory.
            timezone: where a day begins and ends, like Europe/Berlin; nothing else of where and when it runs may change a row.

        Returns:
            A context manager. Its rows are read within the block, once. A day without rows is a reader of the right schema that
            gives none. Keys need not be unique or there: whoever writes the rows down looks.

        Raises:
            SourceError: on entering, while rows are read or when the block ends: something is missing, damaged, does not fit
                together, or was changed while it was read; names it.
            BadKeys: the block raised it; an adapter that can adds where such a key is.
        """

    @abstractmethod
    def table_names(self) -> tuple[str, ...]:
        """The names of the tables that a provenance has, as `quality.sources.not_daily` says them; nothing is opened."""

    def held(self) -> int | None:
        """Bytes of memory that the rows of a day take at most, as what is more goes to the disk; None if it does not say."""
        return None

    def lineage(self, columns: Collection[str], tables: Collection[str]) -> Lineage:  # noqa: ARG002
        """Which columns of some tables each of its columns is computed from, as far as that is known; no rows are read.

        Raises:
            SourceError: a query cannot be read.
        """
        return {}


STREAMED_KINDS = {
    "delta": "batch_assets.sources.delta_source:DeltaSource",
    "iceberg": "batch_assets.sources.iceberg_source:IcebergSource",
    "warehouse": "batch_assets.sources.warehouse_source:WarehouseSource",
    "kafka": "batch_assets.sources.kafka_source:KafkaSource",
}
"""Those of our kinds that can also be a table of a query."""

SOURCES: Port[Source] = Port(
    "source",
    "batch_assets.sources",
    {
        "duckdb": "batch_assets.sources.duckdb_source:DuckdbSource",
        "parquet": "batch_assets.sources.parquet_source:ParquetSource",
        **STREAMED_KINDS,
        "python": "batch_assets.sources.python_source:PythonSource",
    },
)
"""Every kind of source; a package adds one by an entry point in this group."""
