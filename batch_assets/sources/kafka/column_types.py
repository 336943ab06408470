"""Names of Arrow types, as they stand in YAML -> the types."""

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import StringConstraints

if TYPE_CHECKING:
    import pyarrow as pa

_PLAIN = r"bool|u?int(?:8|16|32|64)|float32|float64|string"
_LONGER = r"date|date32|timestamp\[(?:s|ms|us|ns)\]|decimal128\([1-9]\d?, ?\d\d?\)"

ColumnType = Annotated[str, StringConstraints(pattern=rf"^(?:{_PLAIN}|{_LONGER}|list<(?:{_PLAIN})>)$")]
"""Like int64, string, date, timestamp[us], decimal128(10, 2), list<float32>."""


def arrow_type(name: str) -> "pa.DataType":
    """The type of a name that is a ColumnType."""
    import pyarrow as pa

    if found := re.fullmatch(r"decimal128\((\d+), ?(\d+)\)", name):
        return pa.decimal128(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"list<(.+)>", name):
        return pa.list_(arrow_type(found[1]))
    return pa.type_for_alias({"date": "date32"}.get(name, name))
