"""`kind: python`: the rows of another source, of which a function in Python makes others, like tokens of a text."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema
from typing_extensions import override

from batch_assets.arrow import regrouped
from batch_assets.errors import SourceError
from batch_assets.features.provenance import Provenance, sha256_of
from batch_assets.sources.python.crew import applied
from batch_assets.sources.source import SOURCES, Read, Source
from batch_assets.threads import cores

_ANY_SOURCE = {"type": "object", "title": "A source", "properties": {"kind": {"type": "string"}}, "required": ["kind"]}
"""What a schema says of the source within: one source within the other would have no end."""


class PythonSource(Source):
    """A source whose rows are given to a function, batch by batch, on several processes.

    The function takes a `pyarrow.RecordBatch` of the source's rows, in the order of their keys, and gives another one: of as
    many rows, or of fewer or more, in the same order of the same key columns. It is your own code and runs with your rights. It
    is imported by name in processes of its own, so it has no state but what its module makes, and a batch decides nothing about
    another: every batch has `batch_rows` rows but for the last. The first that it is given has none, and says which columns it
    makes; all batches must have these.

    The same function of the same rows is the same snapshot, and a digest of its module's file, and of those that `modules`
    names, is a part of what is remembered of what was read.

    Example:
        Texts as numbers of words; `tokens` is `def tokens(batch: pa.RecordBatch) -> pa.RecordBatch`::

            source:
              kind: python
              function: my_package.preprocessing:tokens
              modules: [my_package.vocabulary]
              source: {kind: parquet, path: /data/texts, hive: true, day: day}
    """

    kind: Literal["python"] = "python"
    source: Annotated[Source, SOURCES, WithJsonSchema(_ANY_SOURCE)] = Field(description="Where the rows come from: any source.")
    function: str = Field(description="What is applied to each batch, like package.module:name.", pattern=r"^\w+(\.\w+)*:\w+$")
    modules: tuple[str, ...] = Field((), description="Modules whose code decides what the function gives, beside its own.")
    workers: int | None = Field(None, description="How many processes there are; by default one for each core.", ge=1)
    batch_rows: int = Field(16_384, description="Rows that the function is given at once.", ge=1)

    @override
    def table_names(self) -> tuple[str, ...]:
        return self.source.table_names()

    @override
    def held(self) -> int | None:
        return self.source.held()

    @override
    @contextmanager
    def read(self, day: str, keys: Sequence[str], spill: Path, timezone: str = "UTC") -> Iterator[Read]:
        import pyarrow as pa

        code = self._code()
        with self.source.read(day, keys, spill, timezone) as read:
            schema = read.rows.schema
            tables = regrouped((pa.Table.from_batches([batch]) for batch in read.rows), schema, self.batch_rows)
            batches = (batch for table in tables for batch in table.combine_chunks().to_batches())
            workers = self.workers or cores()
            with applied(self.function, batches, schema, keys, workers) as rows:
                yield Read(rows, self._provenance(read.provenance, code))
        if self._code() != code:
            raise SourceError(f"The code of {self.function} was changed while it ran; run the day again.")

    def _provenance(self, read: Provenance, code: Sequence[str]) -> Provenance:
        """What is remembered of what the source read, and of the function."""
        function = f"{self.function} {sha256_of(*code)[:16]}"
        tables = tuple(
            table.model_copy(update={"pinned": ", ".join(filter(None, [table.pinned, function]))}) for table in read.tables
        )
        settings = sha256_of(read.settings_sha256, self.model_dump_json(), *code)
        return read.model_copy(update={"tables": tables, "settings_sha256": settings})

    def _code(self) -> list[str]:
        """The digest of each module. Raises SourceError if one is not there."""
        return [_digest(module) for module in (self.function.partition(":")[0], *self.modules)]


def _digest(module: str) -> str:
    try:
        found = find_spec(module)
        if found is None or found.origin is None:
            raise SourceError(
                f"The module {module} has no file here; install its package where this runs, or correct its name."
            )
        return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()
    except (ImportError, ValueError, OSError) as error:
        raise SourceError(f"The module {module} cannot be found ({error}); install its package where this runs.") from error
