"""The `batch-assets` command: thin, one function per verb, one file per group of verbs."""

import os

import click

from batch_assets.cli.dead_letters import dead_letters
from batch_assets.cli.explain import explain, replay
from batch_assets.cli.models import models
from batch_assets.cli.preflight import preflight
from batch_assets.cli.prune import prune
from batch_assets.cli.run import demo, lookup, run
from batch_assets.cli.sweep import sweep
from batch_assets.cli.ui import ui
from batch_assets.cli.verdict import verdict
from batch_assets.project import PROJECT


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batch-assets")
@click.option("--project", metavar="FOLDER", help="The dg project; by default the nearest one upwards from here.")
def main(project: str | None) -> None:
    """The nightly batch inference job: features -> predictions -> serving table."""
    if project:
        os.environ[PROJECT] = project


for _command in (demo, ui, run, preflight, lookup, verdict, explain, replay, sweep, dead_letters, models, prune):
    main.add_command(_command)
