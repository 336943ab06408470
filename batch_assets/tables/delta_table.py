"""`kind: delta`: a Delta table, of which one commit replaces a day."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field
from typing_extensions import override

from batch_assets.errors import TableError
from batch_assets.ports import extra
from batch_assets.sources.closed import quoted, quoted_name
from batch_assets.sources.delta_source import reason_of, storage_options
from batch_assets.sources.lake import accepted_place
from batch_assets.tables.table import PARTITION, PIPELINE, RELEASE, Day, Rows, Table

if TYPE_CHECKING:
    import pyarrow as pa

_FOLDERS = [PIPELINE, PARTITION]


class DeltaTable(Table):
    """A Delta table in folders by pipeline and day, which is made when the first day comes.

    A day is written once and replaced in one commit, which says the release and the run. What a version before had can be read
    until somebody vacuums the table: a day that is withdrawn, or a row of somebody who is forgotten, is in its history so long.

    Example:
        A table in a bucket, to which AWS_* environment variables lead::

            tables: [{kind: delta, path: s3://lake/predictions}]
    """

    kind: Literal["delta"] = "delta"
    path: Annotated[str, AfterValidator(accepted_place)] = Field(
        description="The table's folder: an absolute path, or an s3:// URI to which AWS_* environment variables lead."
    )

    @override
    def release(self, day: Day) -> str | None:
        with self._told("cannot be read"):
            table = self._opened()
            if table is None:
                return None
            found = [row[RELEASE] for batch in self._read(table, day, f"DISTINCT {RELEASE}") for row in batch.to_pylist()]
        if len(found) > 1:
            raise TableError(
                f"The Delta table {self.path} has rows of {' and '.join(sorted(found))} for {day.partition}: "
                f"somebody else writes into it; delete the day there, and publish it again."
            )
        return found[0] if found else None

    @override
    def replace(self, rows: Rows) -> None:
        deltalake = extra("deltalake", "delta", "The table delta")
        with self._told("cannot be written"):
            table = self._opened() or self._made(rows)
            self._require_columns(table, rows)
            deltalake.write_deltalake(
                table,
                rows.reader(),
                mode="overwrite",
                predicate=_where(rows.day),
                commit_properties=_commit(rows.day, {"release": rows.release}),
            )
            rows.require_equal(self._read(table, rows.day, ", ".join(map(quoted_name, rows.schema.names))))

    @override
    def withdraw(self, day: Day) -> None:
        if self.release(day) is None:
            return
        with self._told("cannot be written"):
            table = self._opened()
            if table is not None:
                table.delete(_where(day), commit_properties=_commit(day, {"withdrawn": "true"}))

    def _opened(self) -> Any:
        """The newest version; None if there is no table yet."""
        deltalake = extra("deltalake", "delta", "The table delta")
        options = storage_options(self.path)
        if not deltalake.DeltaTable.is_deltatable(self.path, options):
            return None
        return deltalake.DeltaTable(self.path, storage_options=options)

    def _made(self, rows: Rows) -> Any:
        """A table without rows, or what another process has made in this moment: who writes first must not replace its day.

        Without retries: a commit that finds version 0 taken would otherwise come again as a later one, with which the table has
        another identity, and what others are writing is refused.
        """
        import deltalake
        from deltalake.exceptions import CommitFailedError

        options = storage_options(self.path)
        try:
            return deltalake.DeltaTable.create(
                self.path,
                rows.schema,
                mode="ignore",
                partition_by=_FOLDERS,
                storage_options=options,
                commit_properties=deltalake.CommitProperties(max_commit_retries=0),
            )
        except CommitFailedError:
            made = self._opened()
            if made is None:
                raise
            return made

    def _read(self, table: Any, day: Day, what: str) -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa
        from deltalake import QueryBuilder

        found = QueryBuilder().register("read", table).execute(f"SELECT {what} FROM read WHERE {_where(day)}")
        yield from pa.RecordBatchReader.from_stream(found)

    def _require_columns(self, table: Any, rows: Rows) -> None:
        """Raises TableError."""
        there = [field.name for field in table.schema().fields]
        if there != rows.schema.names:
            raise TableError(
                f"The Delta table {self.path} has the columns {', '.join(there)}, and the day {', '.join(rows.schema.names)}: "
                "say another path, or change the table."
            )

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """What deltalake raises becomes a sentence."""
        import pyarrow as pa
        from deltalake.exceptions import DeltaError

        try:
            yield
        except (DeltaError, pa.ArrowException, OSError, ValueError) as error:
            raise TableError(f"The Delta table {self.path} {what}: {reason_of(error)}.") from error


def _where(day: Day) -> str:
    return f"{PIPELINE} = {quoted(day.pipeline)} AND {quoted_name(PARTITION)} = {quoted(str(day.partition))}"


def _commit(day: Day, said: Mapping[str, str]) -> Any:
    from deltalake import CommitProperties

    about = {"batch_assets.pipeline": day.pipeline, "batch_assets.partition": str(day.partition)}
    return CommitProperties(custom_metadata={**about, **{f"batch_assets.{name}": value for name, value in said.items()}})
