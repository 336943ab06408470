"""The manifest: what a finished run consists of. Readers read the files that it names and no others."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from batch_assets.digest import Digest
from batch_assets.errors import CommitBroken
from batch_assets.histogram import Histogram
from batch_assets.scoring.chunks import Chunk
from batch_assets.scoring.commit import ChunkCommit, RejectsFile
from batch_assets.scoring.proof import Proof
from batch_assets.storage import NumberedLog, Storage


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
    """A finished run with its proof. `values` digests all scored (key, values); `seconds` are worker seconds by stage."""

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
    wall_seconds: float
    versions: dict[str, str]

    @property
    def rows_per_second(self) -> float:
        """Rows scored per second of wall time by the process that wrote the manifest; 0 if it scored none itself."""
        return self.rows / self.wall_seconds if self.wall_seconds else 0.0


def manifest_log(storage: Storage, folder: str) -> NumberedLog:
    """A run's manifests; the highest is in force."""
    return NumberedLog(storage, f"{folder}/_manifest")


def read_manifest(storage: Storage, folder: str) -> Manifest | None:
    """The manifest of a finished run, or None; its files are all there in their sizes. Raises CommitBroken."""
    entry = manifest_log(storage, folder).latest()
    if entry is None:
        return None
    manifest = Manifest.model_validate(entry.body)
    sizes = storage.names(folder)
    for file in manifest.files:
        if sizes.get(file.name) != file.size:
            found = f"{sizes[file.name]:,} bytes" if file.name in sizes else "missing"
            raise CommitBroken(
                f"{folder}/{file.name} is {found} instead of {file.size:,} bytes as its manifest says: restore it."
            )
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
    """All rows of one file that a manifest names. Raises CommitBroken."""
    path = f"{folder}/{file.name}"
    try:
        with storage.open(path) as handle:
            return pq.read_table(handle)
    except (OSError, pa.ArrowInvalid) as error:
        raise CommitBroken(f"{path} cannot be read: {str(error).splitlines()[0].rstrip('.')}.") from error
