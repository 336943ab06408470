"""The manifest: what a finished run consists of. Readers read the files that it names and no others."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from batch_assets.digest import Digest
from batch_assets.errors import CommitBroken
from batch_assets.histogram import Histogram
from batch_assets.numbered_log import NumberedLog
from batch_assets.scoring.chunks import Chunk
from batch_assets.scoring.commit import ChunkCommit, RejectsFile
from batch_assets.scoring.proof import Proof
from batch_assets.storage import Storage


class ModelPin(BaseModel):
    """The one version that scored the run: its files' digest and the sha256 of its program."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    digest: str
    sha256: str


class ManifestFile(BaseModel):
    """One committed predictions file, and the rejects file that belongs to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int
    rows: int
    scored: int
    values: Digest
    rejects: RejectsFile | None


class Manifest(BaseModel):
    """A finished run with its proof.

    `values` digests all scored (key, values); `seconds` are worker seconds by stage. `scored_here` rows took `wall_seconds`
    in the process that wrote the manifest; the others were committed before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    pipeline: str
    partition: str
    folder: str
    snapshot: str
    snapshot_folder: str
    model: ModelPin
    contract: str
    rows: int
    scored: int
    excluded: int
    dead_lettered: int
    values: Digest
    proof: Proof
    histogram: Histogram
    files: tuple[ManifestFile, ...]
    batch_rows: int
    environments: tuple[dict[str, str], ...]
    seconds: dict[str, float]
    scored_here: int
    wall_seconds: float
    versions: dict[str, str]


def manifest_log(storage: Storage, folder: str) -> NumberedLog:
    """A run's manifests; the highest is in force."""
    return NumberedLog(storage, f"{folder}/_manifest")


def latest_manifest(storage: Storage, folder: str) -> Manifest | None:
    """What a run's newest manifest says, or None if the run was never finished."""
    entry = manifest_log(storage, folder).latest()
    return Manifest.model_validate(entry.body) if entry else None


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


def manifest_files(
    storage: Storage, folder: str, plan: Sequence[Chunk], commits: Mapping[int, ChunkCommit]
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


def read_predictions(storage: Storage, folder: str, file: ManifestFile) -> pa.Table:
    """All rows of one file that a manifest names. Raises CommitBroken if it cannot be read."""
    path = f"{folder}/{file.name}"
    try:
        with storage.open(path) as handle:
            return pq.read_table(handle)
    except (OSError, pa.ArrowException) as error:
        raise CommitBroken(f"{path} cannot be read: {str(error).splitlines()[0].rstrip('.')}.") from error
