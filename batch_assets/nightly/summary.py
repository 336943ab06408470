"""What became of a partition, from what is stored: for the command line's table and its JSON."""

from typing import Any

from batch_assets.config import PipelineConfig
from batch_assets.errors import NotFound
from batch_assets.features.provenance import read_provenance
from batch_assets.nightly.night import Night
from batch_assets.nightly.verdict import read_verdict
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.runs.commit import read_committed
from batch_assets.runs.manifest import Manifest
from batch_assets.serving.live import current_log
from batch_assets.serving.reader import Reader
from batch_assets.serving.release import read_release, release_name, stores_of
from batch_assets.storage import Storage


def summarize(night: Night, matches: CheckOutcome, began: str) -> dict[str, Any]:
    """A published night in plain values: counts, model, checks, digest, release and one look-up in it.

    Args:
        night: what was published.
        matches: what `published_matches` found.
        began: when it began (UTC, ISO 8601): a check that was judged before and was kept says when.
    """
    config, storage, model = night.config, night.storage, night.model
    manifest, verdict = night.manifest(), read_verdict(storage, night.folder)
    if verdict is None:
        raise NotFound(f"{night.name} was not judged.")
    outcomes = [*verdict.outcomes, matches]
    left_out = read_provenance(storage, night.frozen.folder).forgotten
    live = current_log(storage, config.name).latest()
    release = release_name(manifest)
    return {
        "pipeline": config.name,
        "partition": night.day,
        "input_rows": manifest.rows,
        "scored_rows": manifest.scored,
        "excluded_rows": manifest.excluded,
        "dead_letter_rows": manifest.dead_lettered,
        "forgotten_rows": left_out.rows if left_out else 0,
        "run_id": night.run_id,
        "engine": manifest.work.where(),
        "model": {"name": model.name, "version": model.version, "sha256": manifest.model.sha256},
        "checks": [outcome.as_mapping(began) for outcome in outcomes],
        "digest": manifest.values.hex(),
        "release": release,
        "live_release": live.body.release if live else None,
        "stores": [one.store for one in live.body.stores] if live else [],
        "lookup": _one_lookup(config, storage, manifest, release),
    }


def _one_lookup(config: PipelineConfig, storage: Storage, manifest: Manifest, release: str) -> dict[str, Any] | None:
    """The first scored key that nobody has forgotten, looked up in the run's own release; None if there is none."""
    scored = next((file for file in manifest.files if file.scored), None)
    if scored is None:
        return None
    names, left_out = list(config.features.contract.identity), manifest.values.count - manifest.released.count
    rows = read_committed(storage, f"{manifest.folder}/{scored.name}", names).slice(0, left_out + 1).to_pylist()
    there = stores_of(storage, config.name, release)
    store = next((one.called for one in config.stores if one.called in there), config.stores[0].called)
    reader = Reader.of_release(storage, read_release(storage, config.name, release, store))
    answers = reader.get_many([[row[name] for name in names] for row in rows])
    reader.close()
    answer = next(filter(None, answers), None)
    return {"key": answer.key, "record": answer.record} if answer else None
