"""What every verb of the command shares: JSON or a picture, errors that are sentences, progress in a terminal.

Exit status: 0 done, 1 not done (the reason is one sentence on stderr), 2 the command line itself is wrong, 130
interrupted. With `--json` stdout holds one JSON object and nothing else, with an `error` if it was not done, or not all of it.
"""

import functools
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from batch_assets.cli.apart import ENDED, INTERRUPTED, Answer, apart
from batch_assets.errors import BatchAssetsError
from batch_assets.nightly.throughput import Throughput, in_words
from batch_assets.storage import Storage, default_models, default_root, open_storage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from batch_assets.models.registry import Registry

Verb = Callable[..., dict[str, Any]]
Show = Callable[["Console", dict[str, Any]], None]

RESUMES = "what is committed stays, the same command resumes."


def verb(show: Show, *, uses_ray: bool = False, resumes: bool = False) -> Callable[[Verb], Callable[..., None]]:
    """Give a function that returns plain values a `--json` flag, a picture for people, and errors that are sentences.

    One that uses Ray works in a process of its own, because Ray ends processes. One that `resumes` is done once more if that
    process is ended from outside: a row that kills it is found then.
    """

    def decorate(function: Verb) -> Callable[..., None]:
        @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
        @functools.wraps(function)
        def command(*args: Any, as_json: bool, **options: Any) -> None:
            signal.signal(signal.SIGTERM, interrupt)
            with _stdout_for_the_answer() as stdout:
                work = functools.partial(answered, functools.partial(function, *args, **options))
                answer = apart(work, RESUMES) if uses_ray else work()
                if resumes and answer.kind == ENDED:
                    click.echo(f"{answer.error} It resumes now, once.", err=True)
                    answer = apart(work, RESUMES)
                if answer.error and as_json:
                    print(json.dumps({"error": answer.error, "kind": answer.kind}), file=stdout)
                settle(answer)
                found = answer.found
                if as_json:
                    print(json.dumps(_finite(found), allow_nan=False), file=stdout)
                else:
                    from rich.console import Console

                    show(Console(file=stdout, highlight=False, width=None if stdout.isatty() else 140), found)
                if found.get("error"):
                    raise click.ClickException(found["error"])

        return command

    return decorate


def answered(function: Callable[[], dict[str, Any]]) -> Answer:
    """What a function gives, or the sentence that it raises."""
    try:
        return Answer(function())
    except click.UsageError as error:
        return Answer(error=error.message, kind=type(error).__name__, status=error.exit_code)
    except (BatchAssetsError, OSError) as error:
        return Answer(error=str(error), kind=type(error).__name__, status=1)
    except KeyboardInterrupt:
        return Answer(error=f"Interrupted; {RESUMES}", kind="Interrupted", status=INTERRUPTED)


def settle(answer: Answer) -> None:
    """End the command as its answer says, unless it was done."""
    if answer.status == INTERRUPTED:
        print(answer.error, file=sys.stderr)
        raise SystemExit(INTERRUPTED)
    if answer.error:
        raise (click.UsageError if answer.status == click.UsageError.exit_code else click.ClickException)(answer.error)


def _finite(value: Any) -> Any:
    """A value as JSON can say it: NaN and infinity, which it cannot, as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def interrupt(*_: object) -> None:
    """A preempted machine or a scheduler says SIGTERM: what is in flight is dropped, as with Ctrl-C."""
    raise KeyboardInterrupt


@contextmanager
def _stdout_for_the_answer() -> Iterator[Any]:
    """Keep stdout for the answer alone: whatever libraries and their processes print goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(kept, "w", closefd=False) as answer:
            yield answer
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


class TerminalProgress:
    """Tells a person at a terminal: sentences as they come, and a bar for each stage."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True, highlight=False, markup=False)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[throughput]}"),
        )
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._stages: dict[str, tuple[TaskID, Throughput]] = {}

    def say(self, message: str) -> None:
        """One line on stderr."""
        self._console.print(message, soft_wrap=True)

    def at(self, stage: str, done: int, total: int | None) -> None:
        """Move the stage's bar; the first call makes it."""
        if stage not in self._stages:
            self._stages[stage] = (self._bars.add_task(stage, total=total, throughput=""), Throughput())
        bar, throughput = self._stages[stage]
        throughput.see(done)
        words = in_words(throughput.estimate(total - done)) if total is not None and done < total else ""
        self._bars.update(bar, completed=done, total=total, throughput=words)

    def __enter__(self) -> "TerminalProgress":
        self._bars.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bars.stop()


def mark(check: dict[str, Any]) -> str:
    """How a check went, in colour: pass, FAIL if it blocks, warn if it was found and does not, or n/a."""
    if check["severity"] == "info":
        return "[dim]n/a [/]"
    if check["passed"]:
        return "[green]pass[/]"
    return "[red]FAIL[/]" if check["severity"] == "error" and not check["override"] else "[yellow]warn[/]"


def registry() -> "Registry":
    """The models of this command."""
    from batch_assets.models.registry import Registry

    return Registry(open_storage(default_models()))


def storage() -> Storage:
    """The storage root of this command."""
    return open_storage(default_root())


def shown(value: Any) -> str:
    """A value for people: six digits of a float."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def at(moment: str) -> str:
    """A moment for people, to the minute."""
    return f"{moment[:10]} {moment[11:16]} UTC" if moment else "at an unknown time"
