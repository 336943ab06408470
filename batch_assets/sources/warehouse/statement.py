"""The one SELECT in a file, whose `$partition` each driver writes in its own way.

A file is looked through sign by sign, as no parser knows the SQL of all warehouses: texts, quoted names and comments are told
from the rest, and nothing of them is changed. That it only reads is for the transaction, or the account, to see to.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from batch_assets.errors import SourceError

_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<text> \b[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
    | (?P<parameter> (?<![\w$]) \$\w+ )
    | (?P<end> ; )
    | (?P<word> \w+ )
    | (?P<sign> [^\s(] )
    """,
    re.DOTALL | re.VERBOSE,
)

_DAY = "$partition"


@dataclass(frozen=True)
class Statement:
    """One SELECT: the file that it is in, for messages, and what it says."""

    path: str
    text: str

    def written(self, placeholder: str) -> str:
        """The statement with a driver's own words for the partition's day, and without the semicolon at its end."""
        tokens = _TOKEN.finditer(self.text)
        pieces, done = list[str](), 0
        for token in tokens:
            if token["end"] or token["parameter"]:
                pieces += [self.text[done : token.start()], "" if token["end"] else placeholder]
                done = token.end()
        return "".join([*pieces, self.text[done:], "\n"])  # what follows must not become a part of a comment

    @cached_property
    def days(self) -> int:
        """How often it says `$partition`."""
        return sum(token["parameter"] == _DAY for token in _TOKEN.finditer(self.text))


def read_statement(path: str) -> Statement:
    """The statement in a file.

    Raises:
        SourceError: the file cannot be read, or holds something else than one SELECT that uses `$partition` and no other.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"The query {path} cannot be read: {error}.") from error
    tokens = [token for token in _TOKEN.finditer(text) if not token["comment"]]
    first = tokens[0].group().upper() if tokens else "nothing"
    if first not in ("SELECT", "WITH"):
        raise SourceError(f"{path} begins with {first}: it must be one SELECT statement.")
    ends = [place for place, token in enumerate(tokens) if token["end"]]
    if ends and ends[0] < len(tokens) - 1:
        raise SourceError(f"{path} goes on after a semicolon: it must be one SELECT statement.")
    parameters = {token["parameter"] for token in tokens if token["parameter"]}
    if _DAY not in parameters:
        raise SourceError(f"{path} never uses {_DAY}: every day would have the same rows.")
    if len(parameters) > 1:
        others = ", ".join(sorted(parameters - {_DAY}))
        raise SourceError(f"{path} asks for {others}: {_DAY} is all that it is told.")
    return Statement(path, text)
