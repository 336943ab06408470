"""`dead-letters`: rows that could not be scored: which, why, and another attempt."""

from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batch_assets.cli.terminal import TerminalProgress, registry, storage, verb

if TYPE_CHECKING:
    from batch_assets.config import PipelineConfig
    from batch_assets.engines.engine import EngineName
    from batch_assets.runs.manifest import Manifest


@click.group("dead-letters")
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
    from batch_assets.operations.dead_letters import count_dead_letters, list_dead_letters

    config, manifest = _finished(pipeline, partition, run_id)
    counts = count_dead_letters(config, storage(), manifest)
    letters = [asdict(letter) for letter in islice(list_dead_letters(config, storage(), manifest), limit)]
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
@click.argument("key", nargs=-1, required=True)
@_PARTITION
@_RUN
@verb(_show_letter)
def show_letter(pipeline: str, key: tuple[str, ...], partition: str, run_id: str | None) -> dict[str, Any]:
    """Show why KEY of PIPELINE was not scored, and its features as they were frozen."""
    from batch_assets.operations.dead_letters import show_dead_letter

    config, manifest = _finished(pipeline, partition, run_id)
    return show_dead_letter(config, storage(), manifest, key)


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
@click.option(
    "--engine", type=click.Choice(["auto", "ray", "spark", "local"]), help="Where to score; by default as the pipeline says."
)
@verb(_show_replay, uses_ray=True)
def replay_letters(pipeline: str, partition: str, run_id: str | None, engine: "EngineName | None") -> dict[str, Any]:
    """Score the dead letters of a day of PIPELINE again, with the run's own model and settings."""
    from batch_assets.operations.dead_letters import replay
    from batch_assets.orchestration.resources import Engines

    config, manifest = _finished(pipeline, partition, run_id)
    engines, root = Engines(), storage()
    try:
        with TerminalProgress() as progress:
            outcome = replay(config, root, registry(), manifest.folder, engines.engine(config.engine, engine), progress)
    finally:
        engines.close()
    return {"pipeline": pipeline, "partition": manifest.partition, **asdict(outcome)}


def _finished(pipeline: str, partition: str, run_id: str | None) -> "tuple[PipelineConfig, Manifest]":
    from batch_assets.operations.dead_letters import finished
    from batch_assets.orchestration.catalog import pipeline as known

    config, root = known(pipeline), storage()
    day = config.partitions.require(partition, pipeline)
    return config, finished(config, root, registry(), day, run_id)
