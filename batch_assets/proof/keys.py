"""The proof that every row of a snapshot ends in exactly one place: scored, excluded or dead-lettered.

Resume trusts footers; the proof does not. It rereads the keys of every committed file and compares their digests with
those that were recorded when the snapshot was frozen. One missing, doubled or foreign row breaks it, and the message
names the chunk.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from batch_assets.digest import Digest, key_digest
from batch_assets.errors import CommitBroken, ProofFailed
from batch_assets.features.keys import identity
from batch_assets.features.snapshot import Snapshot, SnapshotReader
from batch_assets.runs.chunks import Chunk
from batch_assets.runs.commit import RejectsFile, keys_of, read_committed, read_keys
from batch_assets.runs.commits import Committed
from batch_assets.runs.evidence import Proof
from batch_assets.runs.rejects import DEAD_LETTER
from batch_assets.storage import Storage
from batch_assets.threads import WAITING, in_threads


def prove(
    storage: Storage,
    snapshot: Snapshot,
    snapshot_folder: str,
    folder: str,
    plan: Sequence[Chunk],
    commits: Mapping[int, Committed],
) -> Proof:
    """Compare a run's committed files with its snapshot, row for row by key digest.

    Raises:
        ProofFailed: chunks do not tile the snapshot, or rows are missing, doubled or foreign.
        CommitBroken: a committed file cannot be read or was changed.
    """
    reread = in_threads(lambda chunk: _reread(storage, folder, chunk, snapshot.key, commits), plan, WAITING)
    found = {chunk.number: digest for chunk, digest in zip(plan, reread, strict=True)}
    if set(commits) != set(found):
        raise ProofFailed(f"{folder} holds commits that are not in the plan: {sorted(set(commits) - set(found))}.")
    total = Digest()
    for index, file in enumerate(snapshot.files):
        chunks = [chunk for chunk in plan if chunk.file == index]
        for span, expected in _spans(chunks, [(group.rows, group.keys) for group in file.row_groups]):
            actual = sum((found[chunk.number] for chunk in span), Digest())
            if actual != expected:
                raise ProofFailed(_explain(storage, snapshot, snapshot_folder, folder, span, found))
            total = total + actual
    return Proof(rows=total.count, chunks=len(plan), keys=total)


def prove_replays(
    storage: Storage, folder: str, key: Sequence[str], chunk: str, rejects: RejectsFile | None, replays: Sequence[str]
) -> None:
    """Show that a chunk's replay files hold only rows that were its dead letters, each at most once. Raises ProofFailed."""
    scored = [value for name in replays for value in read_keys(storage, f"{folder}/{name}", key).to_pylist()]
    if not scored:
        return
    table = read_committed(storage, f"{folder}/{rejects.name}") if rejects else None
    kinds = zip(identity(table, key).to_pylist(), table.column("kind").to_pylist(), strict=True) if table else ()
    dead = {value for value, kind in kinds if kind == DEAD_LETTER}
    if len(set(scored)) != len(scored) or not dead.issuperset(scored):
        raise ProofFailed(f"The replays of {chunk} of {folder} hold rows that are doubled or were no dead letters.")


def _reread(storage: Storage, folder: str, chunk: Chunk, key: Sequence[str], commits: Mapping[int, Committed]) -> Digest:
    """The digest of all keys in a chunk's predictions and rejects files."""
    if chunk.number not in commits:
        raise ProofFailed(f"{chunk.name} of {folder} is missing.")
    commit = commits[chunk.number]
    found = key_digest(read_keys(storage, f"{folder}/{chunk.name}.parquet", key))
    if found.count != commit.scored:
        raise ProofFailed(f"{chunk.name} of {folder} holds {found.count:,} scored rows, its footer says {commit.scored:,}.")
    if commit.rejects is not None:
        path = f"{folder}/{commit.rejects.name}"
        content = storage.read(path)
        if hashlib.sha256(content).hexdigest() != commit.rejects.sha256:
            raise CommitBroken(
                f"{path} was changed after it was committed: remove it and run again, then its chunk is scored again."
            )
        found = found + key_digest(keys_of(content, path, key))
    if found != commit.keys:
        raise ProofFailed(f"{chunk.name} of {folder} holds other keys than its footer says: missing, doubled or foreign.")
    return found


def _spans(chunks: Sequence[Chunk], groups: Sequence[tuple[int, Digest]]) -> Iterator[tuple[list[Chunk], Digest]]:
    """The shortest runs of chunks that end where row groups end, each with the digest that it must have."""
    span: list[Chunk] = []
    expected, group_end, chunk_end = Digest(), 0, 0
    remaining = iter(groups)
    for chunk in chunks:
        if chunk.start != chunk_end:
            raise ProofFailed(f"{chunk.name} begins at row {chunk.start:,} instead of {chunk_end:,}: the plan has a gap.")
        span.append(chunk)
        chunk_end += chunk.rows
        while group_end < chunk_end:
            rows, digest = next(remaining, (0, Digest()))
            if not rows:
                raise ProofFailed(f"{chunk.name} goes beyond the last row of its file.")
            group_end, expected = group_end + rows, expected + digest
        if group_end == chunk_end:
            yield span, expected
            span, expected = [], Digest()
    if span or next(remaining, None) is not None:
        raise ProofFailed("The plan ends before the last row of a file.")


def _explain(
    storage: Storage,
    snapshot: Snapshot,
    snapshot_folder: str,
    folder: str,
    span: Sequence[Chunk],
    found: Mapping[int, Digest],
) -> str:
    """Which chunk of a span is wrong, and how; this is where the snapshot's keys are read once more."""
    reader = SnapshotReader(storage, snapshot_folder, snapshot)
    for chunk in span:
        expected, actual = key_digest(reader.keys(chunk.file, chunk.start, chunk.rows)), found[chunk.number]
        if actual.count != expected.count:
            return f"{chunk.name} of {folder} accounts for {actual.count:,} rows instead of {expected.count:,}."
        if actual != expected:
            return f"{chunk.name} of {folder} has the right number of rows, but some keys are missing, doubled or foreign."
    return f"{span[0].name} of {folder}: the frozen rows themselves are not what their digest says."
