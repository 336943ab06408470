"""A night's Delta table, read by Spark itself: `python -m batch_assets_tests.tables.read_by_spark FOLDER_OF_JARS`.

Spark is of the extra `bench`; which jars it needs, `sources/data/README.md` says. Every row that Spark gives must be the one of
the predictions files, also after a day was replaced and another one withdrawn. Exits 1 otherwise.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.operations.releases import go_back
from batch_assets.runs.manifest import latest_manifest
from batch_assets_tests.small import Small, rows, small_model

DAYS = ("2024-03-10", "2024-03-11", "2024-03-12")


def predicted(small: Small, day: str) -> list[tuple[Any, ...]]:
    """Key, score, decile and label of each row of a day's predictions files."""
    manifest = latest_manifest(small.storage, small.opened(day).folder)
    assert manifest is not None
    files = [small.storage.local_path(f"{manifest.folder}/{one.name}") for one in manifest.files]
    table = pa.concat_tables([pq.read_table(file) for file in files])
    return list(zip(*(table[name].to_pylist() for name in ("user", "probability", "decile", "label")), strict=True))


def main() -> None:
    """Make nights, and let Spark read them."""
    from batch_assets_tests.sources.data.make_by_spark import session

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lake = folder / "lake"
        small = Small(folder, rows(2_000), small_model(), tables=[{"kind": "delta", "path": str(lake)}])
        expected = dict[str, list[tuple[Any, ...]]]()
        for day in DAYS:
            small.night(day)
            expected[day] = predicted(small, day)
        small.register("v2", small_model((1.0, -0.5, 0.3)))
        small.night(DAYS[1])
        expected[DAYS[1]] = predicted(small, DAYS[1])
        went = go_back(small.config, small.storage, small.registry, "a reason")
        del expected[str(went.live.body.withdrawn)[:10]]
        spark = session(sys.argv[1], str(folder / "warehouse"))
        found = dict[str, list[tuple[Any, ...]]]()
        query = f"SELECT partition, user, probability, decile, label FROM delta.`{lake}` ORDER BY partition, user"
        for day, *row in spark.sql(query).collect():
            found.setdefault(str(day), []).append(tuple(row))
        spark.stop()
    if found != expected:
        raise SystemExit(f"Spark reads {[(day, len(some)) for day, some in found.items()]}, and not what was predicted.")
    print(f"Spark reads {sum(map(len, found.values())):,} rows of {' and '.join(found)}, each as it was predicted.")


if __name__ == "__main__":
    main()
