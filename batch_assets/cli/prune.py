"""`prune`: take away what nobody needs any more."""

from dataclasses import asdict, replace
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batch_assets.cli.terminal import TerminalProgress, storage, verb


def _show_pruned(console: Console, found: dict[str, Any]) -> None:
    table = Table("pipeline", "what", "how many", "MB", box=None)
    table.columns[2].justify = table.columns[3].justify = "right"
    for one in found["pipelines"]:
        for kind, count in one["counts"].items():
            table.add_row(one["pipeline"], kind, f"{count:,}", f"{one['sizes'].get(kind, 0) / 1e6:,.3f}")
    if table.row_count:
        console.print(table)
    done = "would be freed" if found["dry_run"] else "freed"
    console.print(f"{found['bytes'] / 1e6:,.3f} MB {done}.")
    for one in found["pipelines"]:
        last = f"the last {one['keep_days']} days"
        kept = (
            f"{last}, from {one['first_kept']} on, and the live one"
            if one["first_kept"]
            else f"all, there are no more than {last}"
        )
        console.print(escape(f"{one['pipeline']} keeps {kept}."), soft_wrap=True)


@click.command()
@click.argument("pipeline", required=False)
@click.option("--keep-days", type=click.IntRange(min=1), help="How many of the newest days to keep; by default as configured.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@verb(_show_pruned)
def prune(pipeline: str | None, keep_days: int | None, dry_run: bool) -> dict[str, Any]:
    """Remove snapshots, runs and releases of PIPELINE (by default of all) that nothing live and no recent day needs.

    With them go Dagster's records of runs that are older than `retention.history_days`.
    """
    from batch_assets.operations.prune import prune as pruned
    from batch_assets.orchestration.catalog import pipeline as known
    from batch_assets.orchestration.catalog import pipelines
    from batch_assets.orchestration.history import prune_history
    from batch_assets.orchestration.launch import open_instance

    configs = [known(pipeline)] if pipeline else list(pipelines().values())
    found = []
    with open_instance() as instance, TerminalProgress() as progress:
        for config in configs:
            one = pruned(config, storage(), keep_days, dry_run, progress)
            runs = prune_history(config, instance, dry_run=dry_run)
            found.append(replace(one, counts={**one.counts, **({"dagster runs": runs} if runs else {})}))
    return {
        "pipelines": [asdict(one) for one in found],
        "bytes": sum(sum(one.sizes.values()) for one in found),
        "dry_run": dry_run,
    }
