"""The checks of a pipeline. Each one shows what a verdict says; none of them judges anything itself."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date

import dagster as dg

from batch_assets.clock import Clock, utc_now
from batch_assets.config import PipelineConfig
from batch_assets.errors import NotFound
from batch_assets.nightly.freeze import frozen
from batch_assets.nightly.night import Night
from batch_assets.nightly.publish import check_published
from batch_assets.nightly.verdict import Verdict, read_verdict
from batch_assets.orchestration import metadata
from batch_assets.orchestration.assets import asset_key, partitions
from batch_assets.orchestration.nights import Nights
from batch_assets.orchestration.pins import pinned
from batch_assets.orchestration.remembered import require_remembered
from batch_assets.orchestration.resources import StorageRoot
from batch_assets.orchestration.runs import began
from batch_assets.orchestration.sla import standing
from batch_assets.quality.gates import GATES, Gate, gates_of
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.storage import Storage

Outcomes = Callable[[dg.AssetCheckExecutionContext, StorageRoot, Nights], Iterator[CheckOutcome]]


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
        found = nights.matches[config.name, context.partition_key] = check_published(night(context, root, nights))
        yield found

    def of_sla(context: dg.AssetCheckExecutionContext, root: StorageRoot, _: Nights) -> Iterator[CheckOutcome]:
        day = date.fromisoformat(context.partition_key)
        yield standing(config, context.instance, root.storage(), day, clock()).outcome()

    features = gates_of("user_features", *(() if config.quality.expectations.full_scan else ("full_scan",)))
    return [
        _checks("features", config, features, of_features),
        _checks("run", config, gates_of("predictions"), of_runs),
        _checks("release", config, [GATES["published_matches"]], of_release),
        *([_checks("sla", config, [GATES["sla"]], of_sla)] if config.sla else []),
    ]


def _checks(subject: str, config: PipelineConfig, gates: Sequence[Gate], found: Outcomes) -> dg.AssetChecksDefinition:
    asset = gates[0].asset

    @dg.multi_asset_check(
        name=f"{config.name}__{subject}_is_good",
        specs=[
            dg.AssetCheckSpec(
                gate.name,
                asset=asset_key(config, asset),
                description=gate.description,
                blocking=gate.blocks,
                partitions_def=partitions(config),
            )
            for gate in gates
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
