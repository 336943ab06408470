"""Iceberg tables that others wrote are moved: their metadata name files by absolute paths."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq

BY_SPARK = Path(__file__).parent / "data" / "iceberg_with_positional_deletes"


def moved_table(to: Path) -> Path:
    """The table that Spark wrote, as if Spark had written it there."""
    shutil.copytree(BY_SPARK, to)
    before = json.loads((to / "metadata" / "v1.metadata.json").read_text())["location"]

    def anew(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace(before, str(to))
        return value.replace(before.encode(), str(to).encode()) if isinstance(value, bytes) else value

    for path in to.glob("metadata/*.json"):
        path.write_text(anew(path.read_text()))
    change_entries(to, "*.avro", lambda entry: all_within(entry, anew))
    for path in to.glob("data/*-deletes.parquet"):
        deletes = pq.read_table(path)
        paths = pa.array(map(anew, deletes["file_path"].to_pylist()))
        pq.write_table(deletes.set_column(0, deletes.schema.field("file_path"), paths), path)
    return to


def change_entries(table: Path, names: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write manifests, or lists of them, anew."""
    for path in table.joinpath("metadata").glob(names):
        with path.open("rb") as file:
            found: Iterator[Any] = fastavro.reader(file)
            entries = [change(entry) for entry in found]
        said = {name: value for name, value in found.metadata.items() if not name.startswith("avro.")}
        with path.open("wb") as file:
            fastavro.writer(file, found.writer_schema, entries, metadata=said)


def all_within(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value in which each plain value is changed."""
    if isinstance(value, dict):
        return {name: all_within(one, change) for name, one in value.items()}
    return [all_within(one, change) for one in value] if isinstance(value, list) else change(value)
