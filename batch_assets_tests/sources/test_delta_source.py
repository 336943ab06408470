"""A version of a Delta table is a source: exact rows, no deleted ones, and nothing that was written after it was chosen."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from deltalake import write_deltalake
from typing_extensions import override

from batch_assets.sources.delta_source import DeltaSource
from batch_assets.sources.source import Source
from batch_assets_tests.sources.source_behaviour import SourceBehaviour


class TestDelta(SourceBehaviour):
    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        for part in parts:
            write_deltalake(folder, part, mode="append")
        return DeltaSource(path=str(folder), day="day")


class TestDeltaInFolders(SourceBehaviour):
    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        for part in parts:
            write_deltalake(folder, part, mode="append", partition_by=["day"])
        return DeltaSource(path=str(folder), day="day")
