"""`serve`: look-ups over HTTP."""

import click

from batch_assets.cli.apart import Answer
from batch_assets.cli.terminal import answered, settle
from batch_assets.errors import NoSuchPipeline


@click.command()
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens; elsewhere it asks for a token.")
@click.option("--port", default=8400, show_default=True, help="On which port.")
@click.option("--workers", default=1, show_default=True, help="Processes that answer.")
@click.option("--name", "names", multiple=True, help="A host name by which clients call it; may be said several times.")
@click.option("--per-second", type=float, help="Requests a second that one worker answers; who comes then is told to wait.")
def serve(
    pipelines: tuple[str, ...], host: str, port: int, workers: int, names: tuple[str, ...], per_second: float | None
) -> None:
    """Answer look-ups of PIPELINES (by default all) over HTTP until Ctrl-C; a page for people is at /.

    If BATCH_ASSETS_TOKEN is set, requests must bear it; whoever listens elsewhere than on this machine needs one.
    """

    def work() -> dict[str, object]:
        from pydantic import ValidationError

        from batch_assets.orchestration.catalog import pipeline, usable_pipelines
        from batch_assets.service.options import Limits, ServiceOptions
        from batch_assets.service.server import serve as serve_until_told
        from batch_assets.storage import default_models, default_root

        served = tuple(map(pipeline, pipelines)) if pipelines else tuple(usable_pipelines())
        if not served:
            raise NoSuchPipeline("There is no pipeline to be served yet: `dg scaffold defs` makes one.")
        try:
            options = ServiceOptions(
                root=default_root(),
                models=default_models(),
                pipelines=served,
                host=host,
                port=port,
                workers=workers,
                names=names,
                limits=Limits(per_second=per_second),
            )
        except ValidationError as error:
            raise click.UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        serve_until_told(options, lambda line: click.echo(line, err=True))
        return {}

    answer: Answer = answered(work)
    settle(answer)
