"""`verdict`: what was judged of a day, and the decision that a finding does not block."""

import sys
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batch_assets.cli.terminal import at, mark, registry, shown, storage, verb
from batch_assets.errors import OverrideInvalid
from batch_assets.logs import user_name

if TYPE_CHECKING:
    from batch_assets.operations.decide import DayVerdict


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
    console.print(f"Judged {_times(found['checks'])}.", soft_wrap=True)
    console.print(
        f"Verdict {said['number']} of {said['when']} by {said['who']}: {shown(said['why'])}", soft_wrap=True, markup=False
    )
    for note in found["notes"]:
        console.print(note, soft_wrap=True, markup=False)


def _times(checks: list[dict[str, Any]]) -> str:
    """When what was judged: each asset's checks are judged together."""
    return ", ".join(dict.fromkeys(f"{check['asset']} {at(check['judged'])}" for check in checks))


def _confirm(seen: "DayVerdict", yes: bool) -> None:
    """Print each finding that would pass, and ask. Raises OverrideInvalid where nobody can answer, Abort on a no."""
    click.echo(f"{seen.pipeline} {seen.partition}: these findings will not block any more:", err=True)
    for check, finding in seen.blocking:
        click.echo(f"  {check}: {finding.message}", err=True)
    if yes:
        return
    if click.get_current_context().params["as_json"] or not sys.stdin.isatty():
        raise OverrideInvalid("There is nobody to ask whether these findings may pass: add --yes.")
    click.confirm("Let them pass?", abort=True, err=True)


@click.command()
@click.argument("pipeline")
@click.option("--partition", metavar="DAY", required=True, help="The day, YYYY-MM-DD.")
@click.option("--override", "why", metavar="REASON", help="Let what blocks pass; recorded with your name.")
@click.option("--by", metavar="NAME", default=user_name, help="Who decides it; by default you.")
@click.option("--until", metavar="DAY", help="With --override: the same findings pass on the days until this one, too.")
@click.option("--yes", is_flag=True, help="With --override: do not ask.")
@verb(_show)
def verdict(pipeline: str, partition: str, why: str | None, by: str, until: str | None, yes: bool) -> dict[str, Any]:
    """Print the verdict on a day of PIPELINE; exit status 1 if it blocks.

    It is that of the features that the day uses now and of the run that was made of them: by the approved model version; if
    there is none, of the run which was finished last.
    """
    from batch_assets.operations.decide import look_again, override_day, require_range, verdict_of
    from batch_assets.orchestration.catalog import pipeline as known

    config = known(pipeline)
    day = config.partitions.require(partition, pipeline)
    if why is None and until is not None:
        raise click.UsageError("--until says how long an override holds: it needs --override.")
    if why is not None:
        last = require_range(day, until)
        seen = look_again(config, storage(), registry(), day)
        _confirm(seen, yes)
        override_day(config, storage(), registry(), seen, by=by, why=why, until=last)
    return verdict_of(config, storage(), registry(), day).as_mapping()
