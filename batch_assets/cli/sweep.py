"""`sweep`: find a pipeline's batch size."""

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from batch_assets.cli.terminal import TerminalProgress, registry, storage, verb


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


@click.command()
@click.argument("pipeline")
@click.option("--partition", metavar="DAY", help="The frozen day whose rows are used; by default the newest.")
@click.option(
    "--max-memory",
    type=click.FloatRange(min=0.1),
    metavar="GB",
    help="How much may be used; by default what a GPU has, or a worker's share of what is free.",
)
@verb(_show_sweep)
def sweep(pipeline: str, partition: str | None, max_memory: float | None) -> dict[str, Any]:
    """Measure batch sizes on PIPELINE's rows and model up to the memory's end, and remember the best one."""
    from batch_assets.operations.sweep import newest_frozen_day
    from batch_assets.operations.sweep import sweep as measured
    from batch_assets.orchestration.catalog import pipeline as known

    config, root = known(pipeline), storage()
    day = config.partitions.require(partition, pipeline) if partition else newest_frozen_day(config, root)
    model = registry().resolve(config.model)
    limit = int(max_memory * 1e9) if max_memory else None
    with TerminalProgress() as progress:
        swept = measured(config, root, day, model, progress, limit)
    return {**swept.sweep.model_dump(mode="json"), "picture": f"{root.location}/{swept.picture}"}
