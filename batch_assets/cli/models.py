"""`models`: the registered versions."""

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from batch_assets.cli.terminal import storage, verb


@click.group()
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

    registry = Registry(storage())
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

    registry = Registry(storage())
    versions = registry.versions(name)
    if not versions:
        raise NoSuchModel(f"There is no model {name}; there is {', '.join(registry.names()) or 'none yet'}.")
    model = registry.version(name, version or versions[-1])
    return {"name": name, "version": model.version, "digest": model.digest, "card": model.card.model_dump(mode="json")}
