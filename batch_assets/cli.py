"""The `batch-assets` command: thin, one function per verb.

Exit status: 0 done, 1 not done (the reason is one sentence on stderr), 2 the command line itself is wrong, 130
interrupted. With `--json` stdout holds one JSON object and nothing else, `{"error": …}` if it was not done.
"""

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from batch_assets.errors import BatchAssetsError, LostRace
from batch_assets.pipeline.pace import Pace, in_words
from batch_assets.storage import Storage, open_storage

if TYPE_CHECKING:
    from batch_assets.config import PipelineConfig
    from batch_assets.engines.engine import EngineName
    from batch_assets.scoring.manifest import Manifest

Verb = Callable[..., dict[str, Any]]
Show = Callable[[Console, dict[str, Any]], None]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batch-assets")
def main() -> None:
    """The nightly batch inference job: features -> predictions -> serving table."""


def verb(show: Show) -> Callable[[Verb], Callable[..., None]]:
    """Give a function that returns plain values a `--json` flag, a picture for people, and errors that are sentences."""

    def decorate(function: Verb) -> Callable[..., None]:
        @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
        @functools.wraps(function)
        def command(*args: Any, as_json: bool, **options: Any) -> None:
            with _stdout_for_the_answer() as answer:
                try:
                    found = function(*args, **options)
                except (BatchAssetsError, OSError) as error:
                    if as_json:
                        print(json.dumps({"error": str(error), "kind": type(error).__name__}), file=answer)
                    raise click.ClickException(str(error)) from None
                except KeyboardInterrupt:
                    message = "Interrupted; what is committed stays, the same command resumes."
                    if as_json:
                        print(json.dumps({"error": message, "kind": "Interrupted"}), file=answer)
                    print(message, file=sys.stderr)
                    raise SystemExit(130) from None
                if as_json:
                    print(json.dumps(found), file=answer)
                else:
                    show(Console(file=answer, highlight=False, width=None if answer.isatty() else 140), found)

        return command

    return decorate


@contextmanager
def _stdout_for_the_answer() -> Iterator[Any]:
    """Keep stdout for the answer alone: whatever libraries and their processes print goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(kept, "w", closefd=False) as answer:
            yield answer
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


class TerminalWatch:
    """Tells a person at a terminal: sentences as they come, and a bar for each stage."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._stages: dict[str, tuple[TaskID, Pace]] = {}

    def say(self, message: str) -> None:
        """One line on stderr."""
        self._console.print(message, soft_wrap=True)

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Move the stage's bar; the first call makes it."""
        if stage not in self._stages:
            self._stages[stage] = (self._bars.add_task(stage, total=total, pace=""), Pace())
        bar, pace = self._stages[stage]
        pace.see(done)
        words = in_words(pace.estimate(total - done)) if total is not None and done < total else ""
        self._bars.update(bar, completed=done, total=total, pace=words)

    def __enter__(self) -> "TerminalWatch":
        self._bars.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bars.stop()


def _storage() -> Storage:
    from batch_assets.orchestration.resources import default_root

    return open_storage(default_root())


def _show_run(console: Console, found: dict[str, Any]) -> None:
    table = Table(title=f"{found['pipeline']} {found['partition']}", title_justify="left", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    seconds, model, lookup = found["seconds"], found["model"], found["lookup"]
    table.add_row(
        "rows",
        f"{found['input_rows']:,} in = {found['scored_rows']:,} scored + {found['excluded_rows']:,} excluded "
        f"+ {found['dead_letter_rows']:,} dead-lettered",
    )
    table.add_row("run", f"{found['run_id']}, {found['resumed_chunks']} chunks resumed")
    table.add_row("model", f"{model['name']} {model['version']}, sha256 {model['sha256'][:16]}…")
    for check in found["checks"]:
        mark = "[green]pass[/]" if check["passed"] else "[red]FAIL[/]" if check["severity"] == "error" else "[yellow]warn[/]"
        table.add_row(f"check {check['name']}", f"{mark}  {escape(check['message'])}")
    live = "live" if found["live_release"] == found["release"] else f"not live, {found['live_release']} is newer"
    table.add_row("release", f"{found['release']} ({live})")
    if lookup:
        record = ", ".join(f"{name} {_shown(value)}" for name, value in lookup["record"].items())
        table.add_row("look-up", escape(record))
    table.add_row("digest", found["digest"])
    table.add_row("seconds", ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    console.print(table, soft_wrap=True)


def _run(name: str, day: str, engine: "EngineName | None", refresh: bool, watch: TerminalWatch) -> dict[str, Any]:
    from batch_assets.models.registry import Registry
    from batch_assets.orchestration.catalog import pipeline
    from batch_assets.orchestration.launch import materialize, open_instance
    from batch_assets.pipeline.summary import summarize

    config, storage = pipeline(name), _storage()
    registry, day = Registry(storage), config.partitions.require(day, name)
    registry.resolve(config.model)  # before anything is begun
    with open_instance() as instance:
        launched = materialize(config, day, instance, watch, engine=engine, refresh=refresh)
    return {
        **summarize(config, storage, day, registry.resolve(config.model, launched.approval)),
        "seconds": launched.seconds,
        "resumed_chunks": launched.resumed_chunks,
        "dagster_run_id": launched.dagster_run_id,
    }


@main.command()
@verb(_show_run)
def demo() -> dict[str, Any]:
    """Score every CDNOW customer for the last day of the data; trains the model first if there is none."""
    from batch_assets.demo import train as training
    from batch_assets.models.registry import Registry
    from batch_assets.orchestration.catalog import pipeline

    config, registry = pipeline(training.PIPELINE), Registry(_storage())
    with TerminalWatch() as watch:
        if training.VERSION not in registry.versions(config.model.name):
            watch.say(f"Training {config.model.name} {training.VERSION} …")
            training.train(config, registry, watch)
        else:
            watch.say(f"Model {config.model.name} {training.VERSION} is registered; training is skipped.")
        if config.model.alias not in registry.aliases(config.model.name):
            with suppress(LostRace):  # another first demo gave the alias in the same moment
                registry.set_alias(config.model.name, config.model.alias, training.VERSION, why="the demo's first model")
        return _run(training.PIPELINE, training.PARTITION, None, refresh=False, watch=watch)


@main.command()
@click.argument("pipeline")
@click.option("--partition", required=True, metavar="DAY", help="The day to score, YYYY-MM-DD.")
@click.option("--engine", type=click.Choice(["ray", "local"]), help="Where to score; by default as the pipeline says.")
@click.option("--refresh", is_flag=True, help="Compute the features again although the day has a snapshot.")
@verb(_show_run)
def run(pipeline: str, partition: str, engine: "EngineName | None", refresh: bool) -> dict[str, Any]:
    """Materialize a day of PIPELINE: features, predictions, serving table. Resumes what was begun."""
    with TerminalWatch() as watch:
        return _run(pipeline, partition, engine, refresh, watch)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _show_pairs(console: Console, found: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    for section in ("record", "lineage"):
        for name, value in found[section].items():
            table.add_row(name, escape(_shown(value)))
    console.print(table, soft_wrap=True)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("pipeline")
@click.argument("key")
@verb(_show_pairs)
def lookup(pipeline: str, key: str) -> dict[str, Any]:
    """Print the live prediction for KEY of PIPELINE, with its lineage."""
    from batch_assets.orchestration.catalog import pipeline as known
    from batch_assets.serving.reader import Reader

    reader = Reader.live(_storage(), known(pipeline).name)
    try:
        answer = reader.lookup(key)
    finally:
        reader.close()
    return {"key": answer.key, "record": answer.record, "lineage": answer.lineage}


def _show_sweep(console: Console, found: dict[str, Any]) -> None:
    table = Table("rows a batch", "rows/s", "of the best", "peak memory", "", box=None)
    for column in table.columns[:4]:
        column.justify = "right"
    best = max(one["rows_per_s"] for one in found["measured"])
    for one in found["measured"]:
        rate, memory = one["rows_per_s"], one["memory"]
        mark = "[green]picked[/]" if one["batch_rows"] == found["batch_rows"] else ""
        table.add_row(f"{one['batch_rows']:,}", f"{rate:,.0f}", f"{rate / best:.0%}", f"{memory / 1e6:,.0f} MB", mark)
    console.print(table)
    console.print(
        f"Ended because {found['ended']}. From now on `batch_size: auto` means {found['batch_rows']:,} rows for this model."
    )
    console.print(f"The curve: {found['picture']}", soft_wrap=True)


@main.command()
@click.argument("pipeline")
@click.option("--partition", metavar="DAY", help="The frozen day whose rows are used; by default the newest.")
@click.option(
    "--max-memory", type=click.FloatRange(min=0.1), metavar="GB", help="How much may be used; by default what is free."
)
@verb(_show_sweep)
def sweep(pipeline: str, partition: str | None, max_memory: float | None) -> dict[str, Any]:
    """Measure batch sizes on PIPELINE's rows and model up to the memory's end, and remember the best one."""
    from batch_assets.models.registry import Registry
    from batch_assets.orchestration.catalog import pipeline as known
    from batch_assets.pipeline.sweep import newest_frozen_day
    from batch_assets.pipeline.sweep import sweep as measured

    config, storage = known(pipeline), _storage()
    day = config.partitions.require(partition, pipeline) if partition else newest_frozen_day(config, storage)
    model = Registry(storage).resolve(config.model)
    limit = int(max_memory * 1e9) if max_memory else None
    with TerminalWatch() as watch:
        swept = measured(config, storage, day, model, watch, limit)
    return {**swept.sweep.model_dump(mode="json"), "picture": str(storage.local_path(swept.picture))}


@main.group("dead-letters")
def dead_letters() -> None:
    """Rows that could not be scored: which, why, and another attempt."""


_PARTITION = click.option("--partition", required=True, metavar="DAY", help="The day, YYYY-MM-DD.")
_RUN = click.option("--run", "run_id", metavar="ID", help="The run; by default today's model's, else the one finished last.")


def _show_letters(console: Console, found: dict[str, Any]) -> None:
    console.print(f"{found['pipeline']} {found['partition']}, run {found['run_id']}: {found['total']:,} dead letters")
    for reason, count in found["by_reason"].items():
        console.print(f"{count:>12,}  {escape(reason)}", soft_wrap=True)
    if found["dead_letters"]:
        table = Table("key", "reason", "error", "file", "row", box=None)
        for letter in found["dead_letters"]:
            table.add_row(
                *(escape(str(letter[name] or "")) for name in ("key", "reason", "error", "file")), f"{letter['row']:,}"
            )
        console.print(table)
    if len(found["dead_letters"]) < found["total"]:
        console.print(f"Shown are the first {len(found['dead_letters'])}; --limit shows more.")


@dead_letters.command("list")
@click.argument("pipeline")
@_PARTITION
@_RUN
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, help="How many rows to show.")
@verb(_show_letters)
def list_letters(pipeline: str, partition: str, run_id: str | None, limit: int) -> dict[str, Any]:
    """List the dead letters of a day of PIPELINE, counted by reason."""
    from batch_assets.pipeline.dead_letters import count_dead_letters, list_dead_letters

    config, manifest = _finished(pipeline, partition, run_id)
    counts = count_dead_letters(config, _storage(), manifest)
    letters = [asdict(letter) for letter in islice(list_dead_letters(config, _storage(), manifest), limit)]
    return {
        "pipeline": pipeline,
        "partition": manifest.partition,
        "run_id": manifest.run_id,
        "total": sum(counts.values()),
        "by_reason": counts,
        "dead_letters": letters,
    }


def _show_letter(console: Console, found: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    for name, value in {**{n: v for n, v in found.items() if n != "features"}, **found["features"]}.items():
        table.add_row(name, escape(str(value)))
    console.print(table, soft_wrap=True)


@dead_letters.command("show", context_settings={"ignore_unknown_options": True})
@click.argument("pipeline")
@click.argument("key")
@_PARTITION
@_RUN
@verb(_show_letter)
def show_letter(pipeline: str, key: str, partition: str, run_id: str | None) -> dict[str, Any]:
    """Show why KEY of PIPELINE was not scored, and its features as they were frozen."""
    from batch_assets.pipeline.dead_letters import show_dead_letter

    config, manifest = _finished(pipeline, partition, run_id)
    return show_dead_letter(config, _storage(), manifest, key)


def _show_replay(console: Console, found: dict[str, Any]) -> None:
    console.print(f"{found['replayed']:,} dead letters of run {found['run_id']}: {found['scored']:,} are scored now.")
    for reason, count in found["still_dead"].items():
        console.print(f"{count:>12,}  {escape(reason)}", soft_wrap=True)
    if found["scored"]:
        again = f"batch-assets run {found['pipeline']} --partition {found['partition']}"
        console.print(f"`{again}` judges and publishes the run again.", soft_wrap=True)


@dead_letters.command("replay")
@click.argument("pipeline")
@_PARTITION
@_RUN
@click.option("--engine", type=click.Choice(["ray", "local"]), help="Where to score; by default as the pipeline says.")
@verb(_show_replay)
def replay_letters(pipeline: str, partition: str, run_id: str | None, engine: "EngineName | None") -> dict[str, Any]:
    """Score the dead letters of a day of PIPELINE again, with the run's own model and settings."""
    from batch_assets.models.registry import Registry
    from batch_assets.orchestration.resources import RayCluster
    from batch_assets.pipeline.dead_letters import replay

    config, manifest = _finished(pipeline, partition, run_id)
    cluster, storage = RayCluster(), _storage()
    try:
        with TerminalWatch() as watch:
            outcome = replay(config, storage, Registry(storage), manifest.folder, cluster.engine(config.engine, engine), watch)
    finally:
        cluster.close()
    return {"pipeline": pipeline, "partition": manifest.partition, **asdict(outcome)}


def _finished(pipeline: str, partition: str, run_id: str | None) -> "tuple[PipelineConfig, Manifest]":
    from batch_assets.models.registry import Registry
    from batch_assets.orchestration.catalog import pipeline as known
    from batch_assets.pipeline.dead_letters import finished

    config, storage = known(pipeline), _storage()
    day = config.partitions.require(partition, pipeline)
    return config, finished(config, storage, Registry(storage), day, run_id)


@main.group()
def models() -> None:
    """The registered models."""


def _show_models(console: Console, found: dict[str, Any]) -> None:
    table = Table("model", "version", "aliases", "trained on", "AUC", box=None)
    for model in found["models"]:
        auc = next((f"{metrics['auc']:.3f} on {day}" for day, metrics in model["metrics"].items() if "auc" in metrics), "")
        table.add_row(
            model["name"], model["version"], ", ".join(model["aliases"]), f"{model['training'].get('rows', 0):,} rows", auc
        )
    console.print(table if found["models"] else "No model is registered yet.", soft_wrap=True)


@models.command("list")
@verb(_show_models)
def list_models() -> dict[str, Any]:
    """List every version of every model and its aliases."""
    from batch_assets.models.registry import Registry

    registry = Registry(_storage())
    found = []
    for name in registry.names():
        aliases = registry.aliases(name)
        for version in registry.versions(name):
            model = registry.version(name, version)
            found.append(
                {
                    "name": name,
                    "version": version,
                    "digest": model.digest,
                    "aliases": [alias for alias, entry in aliases.items() if entry.body["version"] == version],
                    "metrics": model.card.metrics,
                    "training": model.card.training,
                }
            )
    return {"models": found}


def _show_card(console: Console, found: dict[str, Any]) -> None:
    console.print_json(data=found)


@models.command("show")
@click.argument("name")
@click.argument("version", required=False)
@verb(_show_card)
def show_model(name: str, version: str | None) -> dict[str, Any]:
    """Print the card of NAME's VERSION, by default its newest."""
    from batch_assets.errors import NoSuchModel
    from batch_assets.models.registry import Registry

    registry = Registry(_storage())
    versions = registry.versions(name)
    if not versions:
        raise NoSuchModel(f"There is no model {name}; there is {', '.join(registry.names()) or 'none yet'}.")
    model = registry.version(name, version or versions[-1])
    return {"name": name, "version": model.version, "digest": model.digest, "card": model.card.model_dump(mode="json")}
