"""What Dagster remembers of the numbered logs: who deletes an entry from the storage root does not delete it from there.

A materialization names the newest entry of each pointer that it moved or followed. The next run, the checks and a sensor
compare that with what the root has now. What lies in a run or a snapshot is pruned with it and not remembered; the pointers
are kept for ever.
"""

from typing import Any

import dagster as dg
from pydantic import BaseModel

from batch_assets.config import PipelineConfig
from batch_assets.errors import LostEntry, NotFound
from batch_assets.logs import NumberedLog
from batch_assets.storage import Storage, root_id

_ENTRIES = "log_entries"


def of_logs(storage: Storage, *logs: NumberedLog[Any]) -> dict[str, Any]:
    """Metadata of a materialization: number and sha256 of the newest entry of some logs, and which root they are of."""
    newest = {log.folder: entry for log in logs if (entry := log.latest())}
    entries = {folder: {"number": entry.number, "sha256": entry.sha256} for folder, entry in newest.items()}
    return {_ENTRIES: dg.MetadataValue.json({"root": root_id(storage), "entries": entries})}


def require_remembered(config: PipelineConfig, instance: dg.DagsterInstance, storage: Storage, day: str | None) -> None:
    """Compare what the newest materializations of a day, and the newest of all, name with what the root has.

    Another root, or one that was made anew, is not compared.

    Raises:
        LostEntry: an entry is missing, or is another one now; names it and the Dagster run that knew it.
    """
    assets = [dg.AssetKey([config.name, name]) for name in ("user_features", "predictions", "serving_table")]
    root = root_id(storage)
    for asset, partitions in [*((one, None) for one in assets), *((one, [day]) for one in assets if day)]:
        wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=partitions)
        for record in instance.fetch_materializations(wanted, limit=1).records:
            made = record.asset_materialization
            known: Any = made.metadata[_ENTRIES].value if made and _ENTRIES in made.metadata else None
            if made is not None and known is not None and known["root"] == root:
                _compare(storage, known["entries"], f"Dagster run {record.run_id} ({asset.to_user_string()} {made.partition})")


def _compare(storage: Storage, entries: dict[str, dict[str, Any]], who: str) -> None:
    for folder, known in entries.items():
        try:
            found = NumberedLog(storage, folder, BaseModel).entry(known["number"]).sha256
        except NotFound:
            found = ""
        if found != known["sha256"]:
            raise LostEntry(
                f"Entry {known['number']} of {folder} under {storage.location}, which {who} knew, is "
                f"{'another one now' if found else 'missing'}: restore it from a copy, or wipe that materialization in Dagster "
                "to go on without it."
            )
