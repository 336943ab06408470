"""A snapshot of an Iceberg table is a source: exact rows, no deleted ones, and nothing that was written after it was chosen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from typing_extensions import override

from batch_assets.sources.iceberg_source import IcebergSource
from batch_assets.sources.source import Source
from batch_assets_tests.sources.source_behaviour import SourceBehaviour


def properties(folder: Path) -> dict[str, str]:
    return {"name": "tests", "type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}"}


class TestIceberg(SourceBehaviour):
    lacks: ClassVar = frozenset({"i8", "i16"})

    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        said = properties(folder)
        catalog = SqlCatalog(**said)
        catalog.create_namespace_if_not_exists("db")
        for part in parts:
            catalog.create_table_if_not_exists("db.rows", part.schema).append(part)
        catalog.close()
        return IcebergSource(catalog=said, table="db.rows", day="day")
