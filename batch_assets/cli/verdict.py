"""`verdict`: what was judged of a day, and the decision that a finding does not block."""

from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batch_assets.cli.terminal import mark, registry, shown, storage, verb
from batch_assets.numbered_log import user_name


def _show(console: Console, found: dict[str, Any]) -> None:
    title = f"{found['pipeline']} {found['partition']}: {found['subject']}"
    table = Table(title=title, title_justify="left", box=None)
    for name in ("check", "asset", "", "observed", "threshold", "finding"):
        table.add_column(name, justify="right" if name in ("observed", "threshold") else "left", overflow="fold")
    for check in found["checks"]:
        numbers = ["" if check[name] is None else f"{check[name]:,.4g}" for name in ("observed", "threshold")]
        table.add_row(check["name"], check["asset"], mark(check), *numbers, escape(check["message"]))
    console.print(table)
    console.print(f"Compared with {', '.join(found['compared_with']) or 'nothing'}.", soft_wrap=True)
    said = found["recorded"]
    console.print(f"Verdict {said['number']} of {said['when']} by {said['who']}: {shown(said['why'])}", soft_wrap=True)


@click.command()
@click.argument("pipeline")
@click.option("--partition", metavar="DAY", required=True, help="The day, YYYY-MM-DD.")
@click.option("--override", "why", metavar="REASON", help="Let what blocks pass; recorded with your name.")
@click.option("--by", metavar="NAME", default=user_name, help="Who decides it; by default you.")
@verb(_show)
def verdict(pipeline: str, partition: str, why: str | None, by: str) -> dict[str, Any]:
    """Print the verdict on a day of PIPELINE; exit status 1 if it blocks.

    It is that of the run by the approved model version; if there is none, that of the run which was finished last; and if
    there is none either, that of the features.
    """
    from batch_assets.orchestration.catalog import pipeline as known
    from batch_assets.pipeline.decide import override_day, verdict_of

    config = known(pipeline)
    day = config.partitions.require(partition, pipeline)
    if why is not None:
        override_day(config, storage(), registry(), day, by=by, why=why)
    return verdict_of(config, storage(), registry(), day)
