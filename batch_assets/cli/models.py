"""`models`: the registered versions, their approvals, and what approving one would cause."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batch_assets.cli.terminal import registry, shown, storage, verb
from batch_assets.logs import user_name

if TYPE_CHECKING:
    import pyarrow as pa

    from batch_assets.config import PipelineConfig

_why = click.option("--why", required=True, help="The reason, for the audit trail.")
_by = click.option("--by", default=None, help="Who decides this; by default the user of this machine.")


@click.group()
def models() -> None:
    """The registered models and their approvals."""


def _show_models(console: Console, found: dict[str, Any]) -> None:
    table = Table("model", "version", "aliases", "trained on", "AUC", box=None)
    for model in found["models"]:
        auc = next((f"{metrics['auc']:.3f} on {day}" for day, metrics in model["metrics"].items() if "auc" in metrics), "")
        state = ", ".join(model["aliases"]) or ("retired" if model["retired"] else "")
        rows = f"{model['training'].get('rows', 0):,} rows"
        table.add_row(model["name"], model["version"], state, rows, auc)
    console.print(table if found["models"] else "No model is registered yet.", soft_wrap=True)


@models.command("list")
@verb(_show_models)
def list_models() -> dict[str, Any]:
    """List every version of every model and its aliases."""
    known = registry()
    found = []
    for name in known.names():
        aliases = known.aliases(name)
        for version in known.versions(name):
            card, retirement = known.card(name, version), known.retirement(name, version)
            found.append(
                {
                    "name": name,
                    "version": version,
                    "model_sha256": card.model_sha256,
                    "aliases": [alias for alias, approval in aliases.items() if approval.version == version],
                    "retired": {"by": retirement.body.by, "why": retirement.why} if retirement else None,
                    "metrics": card.metrics,
                    "training": card.training,
                }
            )
    return {"models": found}


def _show_model(console: Console, found: dict[str, Any]) -> None:
    console.print_json(data={name: value for name, value in found.items() if name != "approvals"})
    table = Table("approval", "alias", "version", "when", "by", "why", box=None)
    for one in found["approvals"]:
        note = f" (withdrew {', '.join(map(str, one['withdraws']))})" if one["withdraws"] else ""
        who, why = escape(one["by"]), escape(one["why"] + note)
        table.add_row(str(one["number"]), one["alias"], one["version"], one["when"], who, why)
    console.print(table if found["approvals"] else "Nothing was approved yet.", soft_wrap=True)


@models.command("show")
@click.argument("name")
@click.argument("version", required=False)
@verb(_show_model)
def show_model(name: str, version: str | None) -> dict[str, Any]:
    """Print the card of NAME's VERSION, by default its newest, and the model's audit trail."""
    known = registry()
    version = version or known.newest(name)
    trail = [
        {"alias": alias, **approval.as_mapping()}
        for alias in known.aliases(name)
        for approval in known.approvals(name, alias).history()
    ]
    return {"name": name, "version": version, "card": known.card(name, version).model_dump(mode="json"), "approvals": trail}


def _show_registered(console: Console, found: dict[str, Any]) -> None:
    for note in found["warnings"]:
        console.print(f"[yellow]warn[/] {escape(note)}", soft_wrap=True)
    console.print(f"{found['name']} {found['version']} is registered, digest {found['digest']}.", soft_wrap=True)


@models.command()
@click.argument("name")
@click.argument("version")
@click.option("--model", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True, help="The model file.")
@click.option("--card", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True, help="Its card, as JSON.")
@click.option(
    "--baseline",
    nargs=2,
    metavar="PIPELINE DAY",
    help="Try it on rows of this frozen day, not on made-up ones of its contract.",
)
@click.option(
    "--confirm-outputs", is_flag=True, help="Its outputs are what the card says, whatever they look like: kept in the card."
)
@verb(_show_registered)
def register(
    name: str, version: str, model: Path, card: Path, baseline: tuple[str, str] | None, confirm_outputs: bool
) -> dict[str, Any]:
    """Keep VERSION of the model NAME for ever, its file and its card, after it was tried as a night uses it.

    The same bytes again are no change.
    """
    from batch_assets.models.card import read_card

    described = read_card(card.read_bytes(), str(card))
    if confirm_outputs:
        head = described.head.model_copy(update={"confirmed": True})
        described = described.model_copy(update={"head": head})
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        added = registry().register(name, version, described, model.read_bytes(), _rows_of(*baseline) if baseline else None)
    return {
        "name": name,
        "version": version,
        "digest": added.digest,
        "model_sha256": added.card.model_sha256,
        "warnings": [str(note.message) for note in notes],
    }


def _rows_of(pipeline: str, day: str) -> "pa.Table":
    """Some rows of a pipeline's frozen day."""
    from batch_assets.operations.sample import rows_of_day
    from batch_assets.orchestration.catalog import pipeline as named

    return rows_of_day(named(pipeline), storage(), day)


def _duration(minutes: float | None) -> str:
    if minutes is None:
        return "unknown: no run yet to go by"
    return f"about {minutes * 60:.0f} seconds" if minutes < 2 else f"about {minutes:.0f} minutes"


def _show_approval(console: Console, found: dict[str, Any]) -> None:
    for plan in found["plans"]:
        table = Table(title=plan["pipeline"], title_justify="left", show_header=False, box=None)
        table.add_column(style="dim")
        table.add_column()
        days = plan["days"]
        span = f"{len(days)} day(s), {days[0]} to {days[-1]}" if days else "nothing: no day is frozen yet"
        table.add_row("scores again", span)
        table.add_row("rows", f"{plan['rows']:,}")
        table.add_row("takes", _duration(plan["minutes"]))
        if plan["cost"] is not None:
            table.add_row("costs", f"about {plan['cost']:.4g} {plan['currency']}")
        if plan["not_measured"]:
            table.add_row("shift", f"not measured: {escape(plan['not_measured'])}")
        for change in plan["contract_changes"]:
            table.add_row("features", escape(change))
        if plan["withdraws"]:
            table.add_row("rolls back", f"approval {', '.join(map(str, plan['withdraws']))}")
        if plan["shift"]:
            shift = plan["shift"]
            table.add_row("compared with", f"{shift['against']}, on {shift['rows']:,} rows of {shift['partition']}")
            for name in ("psi", "top_decile_overlap", "rank_correlation"):
                table.add_row(name.replace("_", " ").replace("psi", "PSI"), shown(shift[name]))
        console.print(table, soft_wrap=True)
    if not found["plans"]:
        console.print(f"No pipeline uses the alias {found['alias']} of {found['name']}.", soft_wrap=True)
    if found["approval"] is None:
        console.print("Nothing was approved: this was a dry run.")
    else:
        console.print(f"Approval {found['approval']}: {found['name']} {found['version']} for {found['alias']}.", soft_wrap=True)


@models.command()
@click.argument("name")
@click.argument("version")
@click.option("--alias", default="batch", show_default=True, help="What it is approved for; each alias is approved by itself.")
@_why
@_by
@click.option("--dry-run", is_flag=True, help="Only say what approving would cause.")
@verb(_show_approval)
def approve(name: str, version: str, alias: str, why: str, by: str | None, dry_run: bool) -> dict[str, Any]:
    """Approve VERSION of the model NAME: pipelines that use the alias score their newest days again with it.

    Going back to an earlier version is a roll-back: it withdraws the approvals given since.
    """
    from batch_assets.operations import rollout

    known, root = registry(), storage()
    configs = [config for config in _pipelines() if (config.model.name, config.model.alias) == (name, alias)]
    if dry_run:
        number, plans = None, [rollout.plan_rollout(config, root, known, version) for config in configs]
    else:
        approval, plans = rollout.approve(configs, root, known, name, alias, version, why=why, by=by or user_name())
        number = approval.number
    return {
        "name": name,
        "version": version,
        "alias": alias,
        "approval": number,
        "plans": [plan.model_dump(mode="json") for plan in plans],
    }


def _show_retired(console: Console, found: dict[str, Any]) -> None:
    files = "; its program was deleted" if found["deleted"] else ""
    console.print(f"{found['name']} {found['version']} is retired and cannot be approved any more{files}.", soft_wrap=True)


@models.command()
@click.argument("name")
@click.argument("version")
@_why
@_by
@click.option("--delete", is_flag=True, help="Delete the model file too; the card stays.")
@verb(_show_retired)
def retire(name: str, version: str, why: str, by: str | None, delete: bool) -> dict[str, Any]:
    """Let VERSION of the model NAME never be approved again; refused while an alias or a live release uses it."""
    from batch_assets.operations import rollout

    names = [config.name for config in _pipelines()]
    rollout.retire(names, storage(), registry(), name, version, why=why, by=by or user_name(), delete=delete)
    return {"name": name, "version": version, "deleted": delete}


def _show_verified(console: Console, found: dict[str, Any]) -> None:
    table = Table("model", "version", "files", box=None)
    for one in found["versions"]:
        table.add_row(one["name"], one["version"], "[green]as registered[/]" if not one["fault"] else escape(one["fault"]))
    console.print(table if found["versions"] else "No model is registered yet.", soft_wrap=True)


@models.command()
@click.argument("name", required=False)
@verb(_show_verified)
def verify(name: str | None) -> dict[str, Any]:
    """Hash every file again, of one model or of all, and compare with its card and with every approval."""
    known = registry()
    found = [
        {"name": model, "version": version, "fault": known.fault(model, version)}
        for model in ([name] if name else known.names())
        for version in known.versions(model)
    ]
    faults = [one["fault"] for one in found if one["fault"]]
    return {"versions": found, **({"error": " ".join(map(str, faults))} if faults else {})}


def _brief(value: Any) -> str:
    """A long list by its length and its ends: a histogram's hundred edges say nothing to a reader; `--json` has them all."""
    if isinstance(value, list) and len(value) > 8:
        return f"{len(value)} values, {shown(value[0])} … {shown(value[-1])}"
    return shown(value)


def _show_differences(console: Console, found: dict[str, Any]) -> None:
    table = Table("", found["before"], found["after"], box=None)
    for one in found["differences"]:
        table.add_row(one["field"], escape(_brief(one["before"])), escape(_brief(one["after"])))
    console.print(table if found["differences"] else "The cards say the same.", soft_wrap=True)


@models.command()
@click.argument("name")
@click.argument("before")
@click.argument("after")
@verb(_show_differences)
def diff(name: str, before: str, after: str) -> dict[str, Any]:
    """Print what the cards of two versions say differently."""
    from batch_assets.models.card import differences

    known = registry()
    found = differences(known.card(name, before), known.card(name, after))
    return {
        "name": name,
        "before": before,
        "after": after,
        "differences": [{"field": field, "before": one, "after": other} for field, (one, other) in found.items()],
    }


def _pipelines() -> "list[PipelineConfig]":
    from batch_assets.orchestration.catalog import pipelines

    return list(pipelines().values())
