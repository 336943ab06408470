"""Prune: what no pointer and none of the last days needs is taken away, so that the storage root stops growing.

Kept are the newest days, as many as the settings say, and the day of the live release; there only what nobody can ever read
is removed. Of older days exports and releases go first, then runs, then snapshots, each as a whole: what points goes before
what it points to, so whenever this is interrupted, nothing points to something half there. Logs are history and stay; one that
names what is gone counts as naming nothing.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from batch_assets.config import PipelineConfig
from batch_assets.errors import (
    CommitBroken,
    ConfigError,
    LostEntry,
    NotFound,
    StoreUnavailable,
    TornEntry,
    UnreadableEntry,
)
from batch_assets.features.snapshot import partition_folder
from batch_assets.nightly.progress import Progress
from batch_assets.runs.commit import day_folder, read_footer
from batch_assets.runs.manifest import manifest_log
from batch_assets.serving.export import export_folder
from batch_assets.serving.live import current_log
from batch_assets.serving.release import in_stores, release_parts
from batch_assets.serving.retention import retire
from batch_assets.serving.store import release_folder
from batch_assets.storage import Storage
from batch_assets.storage.lease import at_work, left_behind
from batch_assets.threads import WAITING, in_threads

Kind = Literal[
    "exports",
    "releases",
    "releases in stores",
    "runs",
    "snapshots",
    "rejects files",
    "unfinished files",
    "files of dead processes",
]


@dataclass(frozen=True)
class Waste:
    """A folder or a file that nobody needs; `day` is empty where it belongs to none."""

    kind: Kind
    day: str
    path: str
    size: int

    @property
    def is_folder(self) -> bool:
        """Whether it is taken away as a whole folder."""
        return self.kind in ("exports", "releases", "runs", "snapshots")


@dataclass(frozen=True)
class Pruned:
    """What was removed (or, of a dry run, would have been): how many of each kind, and their bytes under the root.

    `first_kept` is the oldest of the last days, or None if there are not more than are kept; `busy` days are left alone, for
    the reason that is given.
    """

    pipeline: str
    keep_days: int
    first_kept: str | None
    counts: dict[str, int]
    sizes: dict[str, int]
    busy: dict[str, str]
    dry_run: bool


def prune(config: PipelineConfig, storage: Storage, keep_days: int | None, dry_run: bool, progress: Progress) -> Pruned:
    """Remove what no pointer and none of the newest `keep_days` days needs; by default as many as the pipeline says.

    Days are counted from the newest one that has data, so a pipeline that stands still loses nothing.

    Raises:
        ConfigError: fewer days would be kept than later days are compared with.
        TornEntry: which release is live cannot be read; nothing is removed then.
    """
    keep_days = config.retention.keep_days if keep_days is None else keep_days
    if keep_days < config.days_needed():
        raise ConfigError(f"{config.name} needs its last {config.days_needed()} days, so {keep_days} are too few to keep.")
    days = _days(storage, config.name)
    first_kept = days[-keep_days] if len(days) > keep_days else None
    if not dry_run:
        with storage.scratch():
            pass  # sweeps away what a prune that was killed had taken out of its place already
    counts, sizes, busy = Counter[str](), Counter[str](), dict[str, str]()
    waste = list(_waste(storage, config.name, days, first_kept))
    for number, one in enumerate(waste, start=1):
        if one.day and one.day not in busy and (reason := _in_use(storage, config.name, one)):
            busy[one.day] = reason
            progress.say(f"{config.name} {one.day} is left alone: {reason}.")
        if one.day in busy:
            continue
        folder, _, name = one.path.rpartition("/")
        if one.kind == "rejects files" and not _is_unnamed(storage, folder, name):
            continue  # its chunk was committed meanwhile, and names it
        if not dry_run:
            _remove(storage, config.name, one, progress)
        counts[one.kind] += 1
        sizes[one.kind] += one.size
        progress.at("pruning", number, len(waste))
    retired = retire(storage, config.name, config.stores, dry_run=dry_run)
    for store, why in retired.unavailable.items():
        progress.say(f"Nothing is removed from {store} now: {why}")
    if retired.removed:
        counts["releases in stores"] = len(retired.removed)
    return Pruned(config.name, keep_days, first_kept, dict(counts), dict(sizes), busy, dry_run)


def _remove(storage: Storage, pipeline: str, waste: Waste, progress: Progress) -> None:
    """Take something away; of a release its descriptions first, then what they describe in stores of its own."""
    releases = list(in_stores(storage, pipeline, waste.path.rpartition("/")[2])) if waste.kind == "releases" else []
    (storage.discard if waste.is_folder else storage.delete)(waste.path)
    for release in releases:
        try:
            release.store.drop(storage, release)
        except StoreUnavailable as error:  # it is left behind there, and found by a later prune
            progress.say(f"{release.name} stays in {release.store.called} for now: {error}")


def _days(storage: Storage, pipeline: str) -> list[str]:
    """Every day that has a snapshot or a run, oldest first; one of which only logs are left does not count."""
    snapshots = {day for day in _dates(storage, pipeline, "user_features") if _snapshots(storage, pipeline, day)}
    return sorted(snapshots | {day for day in _dates(storage, pipeline, "predictions") if _runs(storage, pipeline, day)})


def _waste(storage: Storage, pipeline: str, days: list[str], first_kept: str | None) -> Iterator[Waste]:
    """What nobody needs, in the order in which it is to be removed."""
    live = _live_day(storage, pipeline)

    def is_old(day: str) -> bool:
        return first_kept is not None and day < first_kept and day != live

    exports = _by_day(storage, f"{pipeline}/exports")
    releases = _by_day(storage, f"{pipeline}/serving/releases")
    old = [day for day in days if is_old(day)]
    folders: list[tuple[Kind, str, str]] = [
        *(("exports", day, export_folder(pipeline, name)) for day, name in exports if is_old(day)),
        *(("releases", day, release_folder(pipeline, name)) for day, name in releases if is_old(day)),
        *(("runs", day, folder) for day in old for folder in _runs(storage, pipeline, day)),
        *(("snapshots", day, folder) for day in old for folder in _snapshots(storage, pipeline, day)),
    ]
    for kind, day, folder in folders:
        yield Waste(kind, day, folder, _size(storage, folder))
    for day in days:
        for folder in _runs(storage, pipeline, day) if day not in old else ():
            for name, size in _unnamed_rejects(storage, folder).items():
                yield Waste("rejects files", day, f"{folder}/{name}", size)
    gone = tuple(f"{folder}/" for _, _, folder in folders)
    dates = _dates(storage, pipeline, "predictions")
    places = [place for day in dates for place in (day_folder(pipeline, day), *_runs(storage, pipeline, day))]
    dead = {path: size for place in places for path, size in left_behind(storage, place).items()}
    for kind, files in (("files of dead processes", dead), ("unfinished files", storage.leftovers(pipeline))):
        yield from (Waste(kind, "", path, size) for path, size in sorted(files.items()) if not path.startswith(gone))


def _in_use(storage: Storage, pipeline: str, waste: Waste) -> str:
    """Why nothing of a day may be removed now, or nothing; asked again before each removal."""
    day = waste.day
    if waste.is_folder and day == _live_day(storage, pipeline):
        return "it went live just now"
    for folder in (day_folder(pipeline, day), *_runs(storage, pipeline, day)):
        for process in at_work(storage, folder):
            return f"{process} is at work on it"
    return ""


def _live_day(storage: Storage, pipeline: str) -> str | None:
    entry = current_log(storage, pipeline).latest()
    return entry.body.partition if entry else None


def _dates(storage: Storage, pipeline: str, top: str) -> list[str]:
    """The days that have a folder, whatever is in it."""
    return sorted(name.removeprefix("date=") for name in storage.names(f"{pipeline}/{top}") if name.startswith("date="))


def _runs(storage: Storage, pipeline: str, day: str) -> list[str]:
    """The folders of a day's runs."""
    return _within(storage, day_folder(pipeline, day), "run=")


def _snapshots(storage: Storage, pipeline: str, day: str) -> list[str]:
    """The folders of a day's snapshots."""
    return _within(storage, partition_folder(pipeline, day), "snapshot=")


def _by_day(storage: Storage, folder: str) -> list[tuple[str, str]]:
    """The days of what is called as releases are, and those names."""
    return [(parts[0], name) for name in sorted(storage.names(folder)) if (parts := release_parts(name))]


def _within(storage: Storage, folder: str, prefix: str) -> list[str]:
    return [f"{folder}/{name}" for name in sorted(storage.names(folder)) if name.startswith(prefix)]


def _unnamed_rejects(storage: Storage, folder: str) -> dict[str, int]:
    """The rejects files of a run that the footer of no predictions file names: their writers lost a race, or died.

    Those that the run's manifest names are named by footers too, so only the others' footers are read.
    """
    names = storage.names(folder)
    asked = [name for name in names if ".rejects." in name]
    if asked:
        known = _named_by_manifest(storage, folder)
        asked = [name for name in asked if name not in known]
    unnamed = in_threads(lambda name: _is_unnamed(storage, folder, name), asked, WAITING)
    return {name: names[name] for name, goes in zip(asked, unnamed, strict=True) if goes}


def _named_by_manifest(storage: Storage, folder: str) -> set[str]:
    """The rejects files that a run's newest manifest names; none if it has no manifest that can be read."""
    try:
        entry = manifest_log(storage, folder).latest()
        return {file.rejects.name for file in entry.body.files if file.rejects} if entry else set()
    except (TornEntry, LostEntry, UnreadableEntry):
        return set()


def _is_unnamed(storage: Storage, folder: str, name: str) -> bool:
    """Whether the footer of its chunk does not name a rejects file, or its chunk was never committed."""
    try:
        named = read_footer(storage, f"{folder}/{name.partition('.')[0]}.parquet").rejects
    except NotFound:
        return True
    except CommitBroken:
        return False  # nobody can tell what it named
    return named is None or named.name != name


def _size(storage: Storage, folder: str) -> int:
    """The bytes of everything below a folder."""
    return sum(size or _size(storage, f"{folder}/{name}") for name, size in storage.names(folder).items())
