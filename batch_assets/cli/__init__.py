"""The `batch-assets` command: thin, one function per verb, one file per group of verbs, imported when it is asked for."""

import os
from importlib import import_module

import click
from typing_extensions import override

from batch_assets.project import PROJECT

_VERBS = {
    "dead-letters": "dead_letters:dead_letters",
    "demo": "run:demo",
    "diff": "diff:diff",
    "explain": "explain:explain",
    "forget": "forget:forget",
    "lookup": "lookup:lookup",
    "models": "models:models",
    "path": "path:path",
    "plan": "plan:plan",
    "preflight": "preflight:preflight",
    "prune": "prune:prune",
    "releases": "releases:releases",
    "replay": "explain:replay",
    "run": "run:run",
    "serve": "serve:serve",
    "sweep": "sweep:sweep",
    "ui": "ui:ui",
    "verdict": "verdict:verdict",
}
"""Each verb, and in which file of this folder which function it is."""


class _Verbs(click.Group):
    """A group that imports a verb's file when it is its turn: a look-up takes less time than all of them would."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        file, _, function = _VERBS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"{__name__}.{file}"), function)
        return command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batch-assets")
@click.option("--project", metavar="FOLDER", help="The dg project; by default the nearest one upwards from here.")
def main(project: str | None) -> None:
    """The nightly batch inference job: features -> predictions -> serving table."""
    if project:
        os.environ[PROJECT] = project
