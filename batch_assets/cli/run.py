"""`demo`, `run` and `lookup`: a day from its features to an answer."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batch_assets.cli.terminal import TerminalWatch, shown, storage, verb
from batch_assets.errors import LostRace

if TYPE_CHECKING:
    from batch_assets.engines.engine import EngineName


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
        record = ", ".join(f"{name} {shown(value)}" for name, value in lookup["record"].items())
        table.add_row("look-up", escape(record))
    table.add_row("digest", found["digest"])
    table.add_row("seconds", ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    console.print(table, soft_wrap=True)


def _run(name: str, day: str, engine: "EngineName | None", refresh: bool, watch: TerminalWatch) -> dict[str, Any]:
    from batch_assets.models.registry import Registry
    from batch_assets.orchestration.catalog import pipeline
    from batch_assets.orchestration.launch import materialize, open_instance
    from batch_assets.pipeline.summary import summarize

    config, root = pipeline(name), storage()
    registry, day = Registry(root), config.partitions.require(day, name)
    registry.resolve(config.model)  # before anything is begun
    with open_instance() as instance:
        launched = materialize(config, day, instance, watch, engine=engine, refresh=refresh)
    return {
        **summarize(config, root, day, registry.resolve(config.model, launched.approval)),
        "seconds": launched.seconds,
        "resumed_chunks": launched.resumed_chunks,
        "dagster_run_id": launched.dagster_run_id,
    }


@click.command()
@verb(_show_run)
def demo() -> dict[str, Any]:
    """Score every CDNOW customer for the last day of the data; trains the model first if there is none."""
    from batch_assets.demo import train as training
    from batch_assets.models.registry import Registry
    from batch_assets.orchestration.catalog import pipeline

    config, registry = pipeline(training.PIPELINE), Registry(storage())
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


@click.command()
@click.argument("pipeline")
@click.option("--partition", required=True, metavar="DAY", help="The day to score, YYYY-MM-DD.")
@click.option("--engine", type=click.Choice(["ray", "local"]), help="Where to score; by default as the pipeline says.")
@click.option("--refresh", is_flag=True, help="Compute the features again although the day has a snapshot.")
@verb(_show_run)
def run(pipeline: str, partition: str, engine: "EngineName | None", refresh: bool) -> dict[str, Any]:
    """Materialize a day of PIPELINE: features, predictions, serving table. Resumes what was begun."""
    with TerminalWatch() as watch:
        return _run(pipeline, partition, engine, refresh, watch)


def _show_pairs(console: Console, found: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    for section in ("record", "lineage"):
        for name, value in found[section].items():
            table.add_row(name, escape(shown(value)))
    console.print(table, soft_wrap=True)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("pipeline")
@click.argument("key")
@verb(_show_pairs)
def lookup(pipeline: str, key: str) -> dict[str, Any]:
    """Print the live prediction for KEY of PIPELINE, with its lineage."""
    from batch_assets.orchestration.catalog import pipeline as known
    from batch_assets.serving.reader import Reader

    reader = Reader.live(storage(), known(pipeline).name)
    try:
        answer = reader.lookup(key)
    finally:
        reader.close()
    return {"key": answer.key, "record": answer.record, "lineage": answer.lineage}
