"""What is read of one state of a table in a lake, whatever its format; and where such tables lie."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from pydantic import Field
from typing_extensions import override

from batch_assets.errors import SourceError
from batch_assets.features.provenance import SourceFile, SourceTable
from batch_assets.sources.closed import first_line
from batch_assets.sources.days import DayColumn, FileDays, Span, dates, days_within, rows_of_day
from batch_assets.sources.streamed import Streamed, StreamedSource

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "rows"
"""What the one table is called."""


@dataclass(frozen=True)
class LakeFile:
    """A data file of a table, and what the table's metadata say of the days in it."""

    listed: SourceFile
    days: FileDays


class LakeTable(Protocol):
    """One state of a table, which nobody changes any more."""

    @property
    def named(self) -> str:
        """What messages call it, its state included."""

    @property
    def pinned(self) -> str:
        """What the format calls the state."""

    @property
    def schema(self) -> "pa.Schema":
        """Its columns."""

    @property
    def rows(self) -> int:
        """How many rows it has, without those that are deleted."""

    @property
    def told(self) -> tuple[str, ...]:
        """What else is to be said of it."""

    def files(self, column: DayColumn | None) -> Sequence[LakeFile]:
        """Its data files, and the days in them by a column."""

    def read(self, names: Sequence[str], column: DayColumn | None = None, span: Span | None = None) -> "pa.RecordBatchReader":
        """Columns of its rows; of a span of days at least its rows, without files that have none of them."""


class LakeSource(StreamedSource):
    """A table in a lake, of which the rows of the partition's day are taken from one state; what all formats have in common."""

    day: str | None = Field(
        None,
        description="The column of dates or time stamps that says to which day a row belongs; of a table that is written anew "
        "every day there is none, and every row counts.",
    )
    columns: tuple[str, ...] = Field((), description="What is read, keys included, in this order; all but `day` by default.")

    @property
    @override
    def table_name(self) -> str:
        return TABLE

    def rows_of(self, table: LakeTable, path: str, day: str, timezone: str) -> Streamed:
        """The rows of a day of a table.

        Args:
            table: its state.
            path: where it lies.
            day: the partition, YYYY-MM-DD.
            timezone: where a day begins and ends.

        Raises:
            SourceError: a column is missing, or the metadata cannot be read. While rows are read: what `table.read` raises.
        """
        import pyarrow as pa

        names = _chosen(table, self.columns, self.day)
        column = DayColumn.of(table.named, table.schema, self.day, timezone) if self.day else None
        files = table.files(column)
        known = SourceTable(name=TABLE, path=path, pinned=table.pinned, rows=table.rows, told=table.told)
        if column is None:
            return Streamed(table.read(names), known.model_copy(update={"files": tuple(file.listed for file in files)}))
        partition, span = date.fromisoformat(day), Span(date.fromisoformat(day), date.fromisoformat(day))
        found = dates(
            [file.days for file in files],
            partition,
            lambda span: days_within(table.read([column.name], column, span), column, span),
        )
        read = tuple(file.listed for file in files if file.days.may_hold(span))
        rows = table.read(list(dict.fromkeys([*names, column.name])), column, span)
        batches = (batch.select(names) for batch in rows_of_day(rows, column, partition))
        return Streamed(
            pa.RecordBatchReader.from_batches(pa.schema([rows.schema.field(name) for name in names]), batches),
            known.model_copy(update={"files": read, "event_date": column.name, **asdict(found)}),
        )


def _chosen(table: LakeTable, columns: Sequence[str], day_name: str | None) -> list[str]:
    names = table.schema.names
    missing = [name for name in columns if name not in names]
    if missing:
        raise SourceError(f"{table.named} has no column {' and '.join(missing)}, only {', '.join(names)}.")
    return list(columns) or [name for name in names if name != day_name]


def files_of(table: LakeTable, column: DayColumn | None, span: Span | None) -> list[str]:
    """The paths of the data files that may have rows of a span of days."""
    return [file.listed.path for file in table.files(column) if span is None or file.days.may_hold(span)]


def damage_among(files: Iterable[str], opened: Callable[[str], Any]) -> str | None:
    """A phrase about the first Parquet file that is missing or cannot be read to its end; asked after a failure only.

    Args:
        files: their paths.
        opened: opens one, as something that Arrow reads.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in files:
        try:
            with opened(path) as file:
                for _ in pq.ParquetFile(file).iter_batches():
                    pass
        except FileNotFoundError:
            return f"{path} is not there any more: whoever cleans the table up has taken it away; read a state that is there"
        except (OSError, ValueError, pa.ArrowException) as error:
            return f"{path} is damaged ({first_line(error)}); restore the file, or write its rows again"
    return None


def accepted_place(path: str) -> str:
    """A path or URI as settings say it. Raises ValueError if it is relative, or has credentials in it."""
    if "@" in urlsplit(path).netloc:
        raise ValueError("a path has no credentials: they come from the environment")
    if not path.startswith(("/", "s3://")):
        raise ValueError(f"a path is absolute or begins with s3://, not {path}; see context.project_root")
    return path
