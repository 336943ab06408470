"""The manifest: what a finished run consists of. Readers read the files that it names and no others."""

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass

from batch_assets.digest import Digest
from batch_assets.errors import CommitBroken
from batch_assets.features.keys import in_order
from batch_assets.histogram import Histogram
from batch_assets.logs import LogEntry, NumberedLog
from batch_assets.records import RecordType
from batch_assets.runs.bottleneck import WorkTime
from batch_assets.runs.chunks import Chunk
from batch_assets.runs.commit import RejectsFile, read_committed
from batch_assets.runs.commits import Committed
from batch_assets.runs.evidence import Agreement, Audit, Proof
from batch_assets.runs.model_pin import ModelPin as ModelPin
from batch_assets.storage import Storage


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class ManifestFile:
    """One committed predictions file and its rejects file, or the file of a replay, which accounts for no rows of its own."""

    name: str
    size: int
    rows: int
    scored: int
    values: Digest
    rejects: RejectsFile | None

    @property
    def chunk(self) -> str:
        """The name of the chunk that it belongs to."""
        return self.name.partition(".")[0]

    @property
    def is_replay(self) -> bool:
        """Whether it holds rows that were dead letters before."""
        return ".replay-" in self.name


class LeftOut(BaseModel):
    """Scored rows of a run that its releases do not have, as they are about somebody who was forgotten up to entry `number`.

    `values` digests them. `instead_of` are the names of the releases that the run had before and that had such rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = 0
    values: Digest = Digest()
    instead_of: tuple[str, ...] = ()


class Manifest(BaseModel):
    """A finished run with its proof.

    `approval` is the one under which the run was finished; a later approval of the same version takes the run as it is.
    `values` digests all scored (key, record), of the type `record`; `labels` is how many of them have each label; `seconds` are
    what the footers say of their chunks, by stage; stages of several chunks overlap. `scored_here` rows took `wall_seconds`, of
    which `proof_seconds` for proof and audit, in the process that finished the run, which had `peak_bytes` of memory of its own
    at most, and its workers' time is `work`; the other rows were committed before. `finished` says when that was (UTC, ISO
    8601), also in the manifests that follow.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    pipeline: str
    partition: str
    folder: str
    snapshot: str
    snapshot_folder: str
    model: ModelPin
    approval: int
    contract: str
    rows: int
    scored: int
    excluded: int
    dead_lettered: int
    values: Digest
    proof: Proof
    audit: Audit
    agreement: Agreement | None = None
    histogram: Histogram
    record: RecordType
    labels: tuple[int, ...]
    files: tuple[ManifestFile, ...]
    batch_rows: int
    environments: tuple[dict[str, str], ...]
    seconds: dict[str, float]
    work: WorkTime
    scored_here: int
    wall_seconds: float
    proof_seconds: float
    peak_bytes: int
    finished: str
    versions: dict[str, str]
    left_out: LeftOut | None = Field(None, exclude_if=lambda said: said is None)

    @property
    def released(self) -> Digest:
        """The digest of what a release of the run has: all scored rows but those that are left out."""
        return self.values - self.left_out.values if self.left_out else self.values

    @property
    def releases_before(self) -> tuple[str, ...]:
        """The names of the run's releases that had rows which are left out now."""
        return self.left_out.instead_of if self.left_out else ()

    def by_chunk(self) -> list[tuple[ManifestFile, list[ManifestFile]]]:
        """Every chunk's file with the files of its replays, in the order of the snapshot."""
        replays: dict[str, list[ManifestFile]] = {}
        for file in self.files:
            if file.is_replay:
                replays.setdefault(file.chunk, []).append(file)
        return [(file, replays.get(file.chunk, [])) for file in self.files if not file.is_replay]

    def scored_chunks(self) -> list[list[ManifestFile]]:
        """The files of each chunk that has a scored row, its own first, in the order of the snapshot."""
        return [[chunk, *replays] for chunk, replays in self.by_chunk() if chunk.scored or replays]

    def by_label(self) -> dict[str, int]:
        """How many rows have each label; empty if the record has none."""
        return dict(zip(self.record.labels, self.labels, strict=True))

    @property
    def replays(self) -> int:
        """How many files hold rows that were dead letters before."""
        return sum(file.is_replay for file in self.files)

    def with_replays(self, replays: Sequence[ManifestFile], histogram: Histogram, labels: Sequence[int]) -> "Manifest":
        """The same run with rows that were dead letters scored; `histogram` and `labels` are those of their predictions."""
        scored = sum(file.scored for file in replays)
        return self.model_copy(
            update={
                "files": (*self.files, *replays),
                "scored": self.scored + scored,
                "dead_lettered": self.dead_lettered - scored,
                "values": sum((file.values for file in replays), start=self.values),
                "histogram": self.histogram + histogram,
                "labels": tuple(mine + theirs for mine, theirs in zip(self.labels, labels, strict=True)),
            }
        )


def manifest_log(storage: Storage, folder: str) -> NumberedLog[Manifest]:
    """A run's manifests; the highest is in force."""
    return NumberedLog(storage, f"{folder}/_manifest", Manifest)


def finished_entry(storage: Storage, folder: str) -> LogEntry[Manifest] | None:
    """The entry with a run's newest manifest, or None if the run was never finished.

    Raises:
        LostEntry: a manifest was written and is missing, or what it was made from is: snapshot, batch size or approval.
    """
    log = manifest_log(storage, folder)
    entry = log.latest()
    return log.require_seen(entry) if entry else None


def latest_manifest(storage: Storage, folder: str) -> Manifest | None:
    """What a run's newest manifest says, or None if the run was never finished. Raises LostEntry, as `finished_entry` does."""
    entry = finished_entry(storage, folder)
    return entry.body if entry else None


def added(counts: Iterable[Sequence[int]], record: RecordType) -> tuple[int, ...]:
    """How many rows of several parts have each label of a record."""
    return tuple(map(sum, zip([0] * len(record.labels), *counts, strict=True)))


def damage(storage: Storage, manifest: Manifest) -> list[str]:
    """The files of a manifest that are missing or have another size, each as a phrase."""
    sizes = storage.names(manifest.folder)
    found = []
    for file in manifest.files:
        if file.name not in sizes:
            found.append(f"{file.name} is missing")
        elif sizes[file.name] != file.size:
            found.append(f"{file.name} has {sizes[file.name]:,} bytes instead of {file.size:,}")
        if file.rejects and sizes.get(file.rejects.name) != file.rejects.size:
            found.append(f"{file.rejects.name} is missing or was cut")
    return found


def read_manifest(storage: Storage, folder: str) -> Manifest | None:
    """The manifest of a finished run, or None; its files are all there in their sizes. Raises CommitBroken."""
    manifest = latest_manifest(storage, folder)
    broken = damage(storage, manifest) if manifest else []
    if broken:
        raise CommitBroken(f"{folder} is not what its manifest says: {'; '.join(broken)}; run the partition again.")
    return manifest


def read_scored(
    storage: Storage, manifest: Manifest, files: Sequence[ManifestFile], key: Sequence[str], columns: Sequence[str]
) -> pa.Table:
    """The rows of a chunk with its replays in the order of their key: the key's columns, and others. Raises CommitBroken."""
    tables = [read_committed(storage, f"{manifest.folder}/{file.name}", [*key, *columns]) for file in files]
    return in_order(pa.concat_tables(tables, promote_options="permissive"), key) if len(tables) > 1 else tables[0]


def manifest_files(
    storage: Storage, folder: str, plan: Sequence[Chunk], commits: Mapping[int, Committed]
) -> tuple[ManifestFile, ...]:
    """What the manifest says of each committed file, in the order of the plan."""
    sizes = storage.names(folder)
    return tuple(
        ManifestFile(
            name=f"{chunk.name}.parquet",
            size=sizes[f"{chunk.name}.parquet"],
            rows=commits[chunk.number].rows,
            scored=commits[chunk.number].scored,
            values=commits[chunk.number].values,
            rejects=commits[chunk.number].rejects,
        )
        for chunk in plan
    )
