"""A source that reads nothing: rows made up by Arrow, of a kind that only tests have."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pytest
from typing_extensions import override

from batch_assets import ports
from batch_assets.features.provenance import Provenance, SourceTable, sha256_of
from batch_assets.sources.source import SOURCES, Read, Source
from batch_assets_tests.small import rows


def rows_of(day: str, count: int) -> pa.Table:
    """The same rows every day, but for the first tenth."""
    new = count // 10
    return pa.concat_tables([rows(new, seed=date.fromisoformat(day).toordinal()), rows(count).slice(new)])


class MadeUpSource(Source):
    """So many rows of every day."""

    kind: Literal["made_up"] = "made_up"
    count: int
    unreadable: int = 0

    @override
    def table_names(self) -> tuple[str, ...]:
        return ("dice",)

    @override
    @contextmanager
    def read(self, day: str, keys: Sequence[str], spill: Path, timezone: str = "UTC") -> Iterator[Read]:
        table = rows_of(day, self.count).sort_by([(key, "ascending") for key in keys])
        dice = SourceTable(
            name="dice",
            path="made up",
            rows=len(table) + self.unreadable,
            unreadable=self.unreadable,
            told=("thrown every day",),
        )
        settings = sha256_of(self.model_dump_json())
        provenance = Provenance(day=date.fromisoformat(day), timezone=timezone, settings_sha256=settings, tables=(dice,))
        yield Read(pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=100)), provenance)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package brought it."""
    point = EntryPoint("made_up", f"{__name__}:MadeUpSource", SOURCES.group)
    monkeypatch.setattr(ports, "entry_points", lambda group: [point] if group == SOURCES.group else [])
