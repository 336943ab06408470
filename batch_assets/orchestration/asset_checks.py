"""The checks of a pipeline. Each one shows what a verdict says; none of them judges anything itself."""

from collections.abc import Callable, Iterator, Mapping
from datetime import date

import dagster as dg

from batch_assets.clock import Clock, utc_now
from batch_assets.config import PipelineConfig
from batch_assets.errors import NotFound
from batch_assets.nightly.freeze import frozen
from batch_assets.nightly.night import Night
from batch_assets.nightly.publish import published_matches
from batch_assets.nightly.verdict import Verdict, read_verdict
from batch_assets.orchestration import metadata
from batch_assets.orchestration.assets import asset_key, partitions
from batch_assets.orchestration.nights import Nights
from batch_assets.orchestration.pins import pinned
from batch_assets.orchestration.remembered import require_remembered
from batch_assets.orchestration.resources import StorageRoot
from batch_assets.orchestration.runs import began
from batch_assets.orchestration.sla import standing
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.storage import Storage

Outcomes = Callable[[dg.AssetCheckExecutionContext, StorageRoot, Nights], Iterator[CheckOutcome]]

_OF_FEATURES = {
    "contract": "The columns are those that were agreed: names, order, types.",
    "sources": "Every table has rows of the day, about as many as are usual, and the features are not those of an earlier day.",
    "expectations": "great-expectations on the column profile: rows, missing values, permitted ranges, the team's own.",
    "changes": "Nothing is suddenly otherwise than on comparable good days: rows, units, filled columns, missing values.",
    "feature_drift": "PSI, KS and Jensen-Shannon of each feature against the nearest comparable good day before.",
}
_FULL_SCAN = {"full_scan": "great-expectations on every row."}
_OF_RUNS = {
    "complete": "Every row is accounted for, by proof, and enough of them were scored.",
    "dead_letters": "Few enough rows could not be scored; it only warns.",
    "one_model": "Every chunk was scored by the approved version and program.",
    "audit": "Some rows were scored again, alone, and are what is about to be published.",
    "scores": "Scores are finite and not all the same, and not all rows have one label.",
    "drift": "PSI, KS and Jensen-Shannon against the nearest comparable day that the same model scored.",
    "ranks": "By and large, keys rank as on the newest accepted day that the same model scored.",
    "previous_model": "The same against the version before, beyond what its approval was told to expect.",
    "baseline": "The same against the model card's baseline; it only warns.",
    "feature_baseline": "The features against the model card's baseline; it only warns.",
}
_WARNING_ONLY = ("dead_letters", "baseline", "feature_baseline", "sla")
_OF_RELEASE = {"published_matches": "The release holds what the manifest says."}
_OF_SLA = {"sla": "The day, or a newer one, went live by the deadline of its SLA."}


def build_checks(config: PipelineConfig, clock: Clock = utc_now) -> list[dg.AssetChecksDefinition]:
    """Every check of a pipeline, in one step for each subject; blocking but for those that only warn."""

    def known(context: dg.AssetCheckExecutionContext, root: StorageRoot) -> Storage:
        """The storage root, if it still has what Dagster knows of it."""
        storage = root.storage()
        require_remembered(config, context.instance, storage, context.partition_key)
        return storage

    def of_features(context: dg.AssetCheckExecutionContext, root: StorageRoot, _: Nights) -> Iterator[CheckOutcome]:
        storage = known(context, root)
        yield from _verdict(storage, frozen(config, storage, context.partition_key).folder).outcomes

    def night(context: dg.AssetCheckExecutionContext, root: StorageRoot, nights: Nights) -> Night:
        storage, model = known(context, root), pinned(context, config, root, nights)
        return nights.night(config, storage, context.partition_key, model)

    def of_runs(context: dg.AssetCheckExecutionContext, root: StorageRoot, nights: Nights) -> Iterator[CheckOutcome]:
        finished = night(context, root, nights)
        finished.manifest()
        yield from _verdict(finished.storage, finished.folder).outcomes

    def of_release(context: dg.AssetCheckExecutionContext, root: StorageRoot, nights: Nights) -> Iterator[CheckOutcome]:
        found = nights.matches[config.name, context.partition_key] = published_matches(night(context, root, nights))
        yield found

    def of_sla(context: dg.AssetCheckExecutionContext, root: StorageRoot, _: Nights) -> Iterator[CheckOutcome]:
        day = date.fromisoformat(context.partition_key)
        yield standing(config, context.instance, root.storage(), day, clock()).outcome()

    features = {**_OF_FEATURES, **(_FULL_SCAN if config.quality.expectations.full_scan else {})}
    return [
        _checks("features", config, "user_features", features, of_features),
        _checks("run", config, "predictions", _OF_RUNS, of_runs),
        _checks("release", config, "serving_table", _OF_RELEASE, of_release),
        *([_checks("sla", config, "serving_table", _OF_SLA, of_sla)] if config.sla else []),
    ]


def _checks(
    subject: str, config: PipelineConfig, asset: str, described: Mapping[str, str], found: Outcomes
) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(
        name=f"{config.name}__{subject}_is_good",
        specs=[
            dg.AssetCheckSpec(
                name,
                asset=asset_key(config, asset),
                description=description,
                blocking=name not in _WARNING_ONLY,
                partitions_def=partitions(config),
            )
            for name, description in described.items()
        ],
        can_subset=True,
    )
    def checks(
        context: dg.AssetCheckExecutionContext,
        batch_assets_root: StorageRoot,
        batch_assets_nights: dg.ResourceParam[Nights],
    ) -> Iterator[dg.AssetCheckResult]:
        asked, since = {key.name for key in context.selected_asset_check_keys}, began(context.instance, context.run.run_id)
        for outcome in found(context, batch_assets_root, batch_assets_nights):
            if outcome.name in asked:
                asked.remove(outcome.name)
                yield dg.AssetCheckResult(
                    asset_key=asset_key(config, asset),
                    check_name=outcome.name,
                    passed=outcome.passed,
                    severity=metadata.severity(outcome),
                    metadata=metadata.of_outcome(outcome, since),
                )
        if asked:
            raise NotFound(f"The verdict says nothing about {', '.join(sorted(asked))}: materialize {asset} again.")

    return checks


def _verdict(storage: Storage, folder: str) -> Verdict:
    verdict = read_verdict(storage, folder)
    if verdict is None:
        raise NotFound(f"{folder} was not judged: materialize its asset again.")
    return verdict
