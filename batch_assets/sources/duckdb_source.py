"""`kind: duckdb`: one query in SQL over tables, computed as of a partition's day."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from typing_extensions import override

from batch_assets.errors import SourceError
from batch_assets.features.provenance import sha256_of
from batch_assets.sources.closed import bytes_of, folded
from batch_assets.sources.lineage import Lineage, lineage_of
from batch_assets.sources.listing import TableSettings
from batch_assets.sources.query import require_select
from batch_assets.sources.session import Query, ordered_rows
from batch_assets.sources.source import Read, Source
from batch_assets.sources.streamed import STREAMED, StreamedSource


def _is_of(said: Any) -> str:
    return "kind" if isinstance(said, Source) or (isinstance(said, Mapping) and "kind" in said) else "files"


TableOfQuery = Annotated[
    Annotated[TableSettings, Tag("files")] | Annotated[StreamedSource, STREAMED, Tag("kind")], Discriminator(_is_of)
]
"""What a name in the query stands for."""


class DuckdbSource(Source):
    """A query over tables: Parquet files, or any kind of source whose rows are its own, like a topic or a table of a lake.

    The query, one SELECT, sees each entry of `tables` as a view and the partition's day as the parameter `$partition` (a DATE).
    It must use only what was known at the end of that day, and it must give the columns that the feature contract names.
    """

    kind: Literal["duckdb"] = "duckdb"
    query: str = Field(description="Path of the file with the SELECT statement.")
    tables: dict[str, TableOfQuery] = Field(
        description="Name in the query -> path or glob of Parquet files, or more about them; or a source, with its kind."
    )
    memory_limit: str = Field("4GB", description="What DuckDB may use before it spills to disk.")

    @model_validator(mode="after")
    def _names_differ(self) -> "DuckdbSource":
        names = [folded(name) for name in self.tables]
        if len(set(names)) < len(names):
            raise ValueError("two tables have names that SQL does not tell apart")
        return self

    @override
    def table_names(self) -> tuple[str, ...]:
        return tuple(self.tables)

    @override
    def held(self) -> int | None:
        return bytes_of(self.memory_limit)

    @override
    def read(self, day: str, keys: Sequence[str], spill: Path, timezone: str = "UTC") -> AbstractContextManager[Read]:
        text = self._text()
        query = Query(
            named=self.query,
            text=text,
            tables=self.tables,
            memory_limit=self.memory_limit,
            settings_sha256=sha256_of(self.model_dump_json(), text),
            parameters={"partition": day},
            accepted=lambda connection, said: require_select(connection, said, self.query, self.tables),
        )
        return ordered_rows(query, day, keys, spill, timezone)

    @override
    def lineage(self, columns: Collection[str], tables: Collection[str]) -> Lineage:
        return lineage_of(self._text(), "duckdb", tables, columns)

    def _text(self) -> str:
        try:
            return Path(self.query).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"The query {self.query} cannot be read: {error}.") from error
