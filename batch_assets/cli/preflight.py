"""`preflight`: what a sample says of a night before it is scored."""

from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batch_assets.cli.terminal import TerminalProgress, registry, storage, verb


def _show(console: Console, found: dict[str, Any]) -> None:
    versions = f"{found['version']} beside {found['against']}" if found["against"] else found["version"]
    sampled = f"{found['sampled']:,} of {found['rows']:,} rows"
    console.print(f"{found['pipeline']} {found['partition']}: {sampled} with {versions}", style="italic", soft_wrap=True)
    table = Table(box=None)
    for name in ("", "expected", "at least", "at most"):
        table.add_column(name, justify="right" if name else "left")
    rows = {
        "dead letters": (found["dead_letters"], ".3%"),
        **{f"{name.upper()} to the trailing days": (one, ".4f") for name, one in found["drift"].items()},
        **{f"{name.upper()} to {found['against']}": (one, ".4f") for name, one in found["shift"].items()},
        "minutes": (found["minutes"], ",.3f"),
        f"cost, {found['currency']}": (found["cost"], ",.4f"),
        "memory of a process, MB": (found["memory"], ",.0f"),
    }
    for name, (bounds, digits) in rows.items():
        if bounds:
            scale = 1e-6 if name.startswith("memory") else 1
            table.add_row(name, *(format(bounds[key] * scale, digits) for key in ("value", "low", "high")))
    console.print(table)
    if found["go"]:
        console.print("[green]go[/]")
    for reason in found["reasons"]:
        console.print(f"[red]no-go[/]  {escape(reason)}", soft_wrap=True)


@click.command()
@click.argument("pipeline")
@click.option("--partition", metavar="DAY", required=True, help="The day, YYYY-MM-DD; it need not be frozen.")
@click.option("--version", metavar="VERSION", help="A registered version; by default the approved one.")
@verb(_show)
def preflight(pipeline: str, partition: str, version: str | None) -> dict[str, Any]:
    """Score a sample of a day of PIPELINE with the version before and the new one; exit status 1 on a no-go.

    It leaves nothing behind: a day that is not frozen yet is not frozen afterwards.
    """
    from batch_assets.operations.preflight import preflight as looked_ahead
    from batch_assets.orchestration.catalog import pipeline as known

    config, models = known(pipeline), registry()
    day = config.partitions.require(partition, pipeline)
    model = models.version(config.model.name, version) if version else models.resolve(config.model)
    with TerminalProgress() as progress:
        found = looked_ahead(config, storage(), day, model, progress)
    error = {} if found.go else {"error": f"No-go: {'; '.join(found.reasons)}"}
    return {**found.model_dump(mode="json"), "go": found.go, **error}
