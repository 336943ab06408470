"""Compare two nights: who moved between two days' accepted runs, how far, and what the two runs have not in common."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from batch_assets.config import PipelineConfig
from batch_assets.errors import ConfigError, NotFound
from batch_assets.features.snapshot import read_snapshot
from batch_assets.models.registry import Registry
from batch_assets.nightly.progress import Progress
from batch_assets.operations.moves import DECILE, DECILES, By, Counts, Mover, Moves
from batch_assets.operations.paired import Side, paired
from batch_assets.operations.recorded import recorded_run
from batch_assets.pictures.moves import Bar, plot_moves
from batch_assets.records import RecordType
from batch_assets.runs.manifest import Manifest
from batch_assets.storage import Storage

_FAR = 3
"""Moves of so many deciles or more are one bar of the picture."""

_SHOWN_LABELS, _LETTERS = 4, 11
"""Of the picture: so many changes of labels are shown, with so many letters of each label."""


@dataclass(frozen=True)
class ComparedRun:
    """One of the two runs."""

    partition: str
    run_id: str
    model: str
    version: str
    digest: str
    snapshot: str
    contract: str
    rows: int
    scored: int


@dataclass(frozen=True)
class Relabelled:
    """How many keys went from one label to another."""

    before: str
    after: str
    rows: int


@dataclass(frozen=True)
class Diff:
    """What became of each key between two runs.

    `both` keys were scored by both, `gone` ones only by the first, `new` ones only by the second: in the other run they are not
    in the snapshot, excluded, or dead letters. Of those in both, `up` and `down` have a higher or lower score, and `difference`
    says how scores differ; it is empty if nobody is in both.

    `deciles` has for each decile before, from 1 to 10, how many keys are in each after; None if a record has no decile.
    `relabelled` has those whose label changed, most first; None if a record has no label. `movers` are those who moved most.
    """

    pipeline: str
    before: ComparedRun
    after: ComparedRun
    score: str
    both: int
    gone: int
    new: int
    up: int
    down: int
    difference: dict[str, float]
    deciles: tuple[tuple[int, ...], ...] | None
    relabelled: tuple[Relabelled, ...] | None
    movers: dict[str, tuple[Mover, ...]]

    @property
    def by_deciles(self) -> dict[int, int]:
        """How many keys moved by so many deciles, from 9 up to 9 down; empty if a record has no decile."""
        if self.deciles is None:
            return {}
        counts = np.asarray(self.deciles)
        return {step: int(np.trace(counts, offset=step)) for step in range(DECILES - 1, -DECILES, -1)}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the two runs have not in common, or have although one would not expect it; each as a sentence."""
        one, other = self.before, self.after
        found = []
        if one.digest != other.digest:
            versions = f"{one.model} {one.version} and {other.model} {other.version}"
            found.append(f"The days were scored by different model versions, {versions}: scores move for that reason, too.")
        if one.contract != other.contract:
            found.append("The contract of the features was changed in between.")
        if one.snapshot == other.snapshot:
            found.append(f"Both days have the same features, row for row: snapshot {one.snapshot[:16]}.")
        return tuple(found)

    def as_mapping(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **asdict(self),
            "by_deciles": {f"{step:+d}" if step else "0": rows for step, rows in self.by_deciles.items()},
            "same_model": self.before.digest == self.after.digest,
            "same_snapshot": self.before.snapshot == self.after.snapshot,
            "notes": list(self.notes),
        }


def diff(
    config: PipelineConfig,
    storage: Storage,
    registry: Registry,
    before: str,
    after: str,
    progress: Progress,
    *,
    top: int = 10,
    by: By = "score",
) -> Diff:
    """Compare the accepted runs of two days, key by key.

    Args:
        config: the pipeline.
        storage: its root.
        registry: its models, which say what approvals were withdrawn.
        before: the first day.
        after: the second day.
        progress: told how many keys were compared.
        top: how many top movers are named, in each direction.
        by: who they are: whose score moved most, or whose label changed.

    Raises:
        NotFound: a day has no accepted run, or it is not kept any more.
        ConfigError: the runs have other keys or other scores, or there are no labels to go by.
        SnapshotChanged, CommitBroken: a file is not what was recorded.
    """
    one, other = (_side(storage, _accepted(config, storage, registry, day)) for day in (before, after))
    _require_alike(one, other, by)
    moves, total = Moves(one.record, other.record, by, top), min(one.manifest.scored, other.manifest.scored)
    for pairs in paired(storage, one, other):
        moves.add(pairs)
        progress.at("comparing", moves.rows, total)
    return Diff(
        pipeline=config.name,
        before=_compared(one.manifest),
        after=_compared(other.manifest),
        score=one.record.score,
        both=moves.rows,
        gone=one.manifest.scored - moves.rows,
        new=other.manifest.scored - moves.rows,
        up=moves.up,
        down=moves.down,
        difference=moves.difference(),
        deciles=None if moves.deciles is None else tuple(map(tuple, moves.deciles.tolist())),
        relabelled=None if moves.labels is None else _relabelled(one.record.labels, other.record.labels, moves.labels),
        movers=moves.movers(),
    )


def picture(found: Diff) -> bytes:
    """An SVG of who moved: from decile to decile, from label to label, and who is new or gone."""
    bars = {"deciles": _bars_of_deciles(found)} if found.deciles else {found.score: _bars_of_score(found)}
    if found.relabelled is not None:
        shown = [Bar(f"{_short(one.before)} → {_short(one.after)}", one.rows) for one in found.relabelled[:_SHOWN_LABELS]]
        rest = sum(one.rows for one in found.relabelled[_SHOWN_LABELS:])
        bars["labels changed"] = [*shown, *([Bar("others", rest)] if rest else [])] or [Bar("none", 0)]
    bars["keys"] = [Bar("new", found.new), Bar("gone", found.gone)]
    before, after = found.before, found.after
    title = f"{found.pipeline}: {found.both:,} keys scored on {before.partition} and {after.partition}"
    if before.digest != after.digest:
        title += f", by {before.version} and {after.version}"
    return plot_moves(title, (before.partition, after.partition), found.deciles, bars, found.both)


def _bars_of_deciles(found: Diff) -> list[Bar]:
    """A bar for each number of deciles, from up to down; all from `_FAR` on are one."""
    counts = Counter[int]()
    for step, rows in found.by_deciles.items():
        counts[max(-_FAR, min(step, _FAR))] += rows
    return [Bar(_in_words(step), rows, (step > 0) - (step < 0)) for step, rows in counts.items()]


def _in_words(step: int) -> str:
    more = " or more" if abs(step) == _FAR else ""
    return f"{'up' if step > 0 else 'down'} {abs(step)}{more}" if step else "the same"


def _short(label: str) -> str:
    return label if len(label) <= _LETTERS else f"{label[: _LETTERS - 1]}…"


def _bars_of_score(found: Diff) -> list[Bar]:
    same = found.both - found.up - found.down
    return [Bar("up", found.up, 1), Bar("the same", same), Bar("down", found.down, -1)]


def _accepted(config: PipelineConfig, storage: Storage, registry: Registry, day: str) -> Manifest:
    run = recorded_run(config, storage, registry, day)
    if run.chosen != "accepted":
        raise NotFound(
            f"{config.name} {day} was scored, but no run of it is accepted: `batch-assets verdict {config.name} --partition "
            f"{day}` says what blocks it."
        )
    return run.manifest


def _side(storage: Storage, manifest: Manifest) -> Side:
    """A run with the fields of its record that are compared: score, decile and label."""
    record = manifest.record
    wanted = {record.score, DECILE, *([record.label.name] if record.label else [])}
    kept = RecordType(fields=tuple(field for field in record.fields if field.name in wanted), score=record.score)
    return Side(manifest, read_snapshot(storage, manifest.snapshot_folder, manifest.snapshot).key, kept)


def _require_alike(before: Side, after: Side, by: By) -> None:
    one, other = before.manifest, after.manifest
    if before.record.score != after.record.score:
        raise ConfigError(
            f"{one.pipeline} answers a {before.record.score} on {one.partition} and a {after.record.score} on "
            f"{other.partition}, which have no difference: choose two days with the same answers."
        )
    if by == "label" and not (before.record.labels and after.record.labels):
        raise ConfigError(
            f"{one.pipeline} answers {', '.join(one.record.names)}, and none of these is a label: say --by score."
        )


def _compared(manifest: Manifest) -> ComparedRun:
    return ComparedRun(
        partition=manifest.partition,
        run_id=manifest.run_id,
        model=manifest.model.name,
        version=manifest.model.version,
        digest=manifest.model.digest,
        snapshot=manifest.snapshot,
        contract=manifest.contract,
        rows=manifest.rows,
        scored=manifest.scored,
    )


def _relabelled(before: Sequence[str], after: Sequence[str], counts: Counts) -> tuple[Relabelled, ...]:
    found = [
        Relabelled(one, other, int(counts[row, column]))
        for row, one in enumerate(before)
        for column, other in enumerate(after)
        if one != other and counts[row, column]
    ]
    return tuple(sorted(found, key=lambda each: -each.rows))
