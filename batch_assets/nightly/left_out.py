"""What a run's releases leave out: rows of keys that were forgotten after its features were frozen."""

from batch_assets.arrow import as_arrow
from batch_assets.config import PipelineConfig
from batch_assets.digest import Digest, keyed_digest
from batch_assets.features.forgotten import Forgotten, forgotten, forgotten_log, suppressed_number
from batch_assets.features.keys import identity
from batch_assets.features.provenance import provenance_log
from batch_assets.logs import Change, LogEntry
from batch_assets.runs.commit import read_committed
from batch_assets.runs.manifest import LeftOut, Manifest, ManifestFile, manifest_log
from batch_assets.serving.release import release_name
from batch_assets.storage import Storage
from batch_assets.threads import in_threads


def without_forgotten(storage: Storage, config: PipelineConfig, manifest: Manifest) -> tuple[Manifest, Forgotten | None]:
    """A run's manifest, which says what its releases leave out now, and whom they leave out; None if nobody.

    If there is more to leave out than it says, the next manifest says it. Files are read only if somebody was forgotten since
    the snapshot was frozen and the manifest was written.

    Raises:
        SecretInvalid: somebody was forgotten, and the secret is not there, or another one.
    """
    newest, said = suppressed_number(storage, config.name), manifest.left_out or LeftOut()
    if newest <= said.number or newest <= _frozen_without(storage, manifest):
        return manifest, forgotten(storage, config.name) if said.values.count else None
    who = forgotten(storage, config.name)
    if who is None:
        return manifest, None
    values = _values_of(storage, config, manifest, who)
    if values == said.values:
        return manifest, who if values.count else None
    left_out = LeftOut(number=who.number, values=values, instead_of=(*said.instead_of, release_name(manifest)))
    following = manifest.model_copy(update={"left_out": left_out})
    log = manifest_log(storage, manifest.folder)

    def decide(latest: LogEntry[Manifest] | None) -> LogEntry[Manifest] | Change[Manifest] | None:
        if latest is None or latest.body != manifest:
            return latest
        return Change(following, "keys were forgotten", [*log.made_from(latest), forgotten_log(storage, config.name)])

    entry = log.update(decide)
    if entry is None or entry.body == following:
        return following, who
    return without_forgotten(storage, config, entry.body)  # another process was first


def _frozen_without(storage: Storage, manifest: Manifest) -> int:
    """The number of the entry up to which everybody who is forgotten was left out when a run's snapshot was frozen, or 0."""
    entry = provenance_log(storage, manifest.snapshot_folder).latest()
    return entry.body.forgotten.number if entry and entry.body.forgotten else 0


def _values_of(storage: Storage, config: PipelineConfig, manifest: Manifest, who: Forgotten) -> Digest:
    """The digest of a run's scored rows that are about somebody who is forgotten."""
    key = config.features.contract

    def digest(file: ManifestFile) -> Digest:
        path = f"{manifest.folder}/{file.name}"
        found = who.rows(read_committed(storage, path, list(key.key_names)), key.key_names)
        if not found.any():
            return Digest()
        table = read_committed(storage, path, [*key.identity, *manifest.record.names]).filter(as_arrow(found))
        return keyed_digest(identity(table, key.identity), manifest.record.from_table(table).flat())

    return sum(in_threads(digest, manifest.files), start=Digest())
