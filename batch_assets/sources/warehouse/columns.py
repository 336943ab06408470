"""The columns that a warehouse gives -> columns of types that hold the same values, or a sentence about one that has none."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_assets.errors import SourceError
from batch_assets.sources.closed import first_line

if TYPE_CHECKING:
    import pyarrow as pa

_DECIMAL = re.compile(r"decimal(?:128)?\((\d+), ?(\d+)\)")
_MOST_DIGITS = 38
_MODIFIER_OFFSET = 4
"""What PostgreSQL adds to the digits and places of a NUMERIC, which are 16 and 11 bits of one number."""

_INEXACT = {"money", "oid"}
"""Types of PostgreSQL of which the driver makes another meaning: cents of any currency, a number with a sign."""

_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896
"""The years 1 to 9999, in days since 1970: PostgreSQL's infinity, as its driver gives it, is outside."""

_UNITS = {"s": 1, "ms": 10**3, "us": 10**6}


def type_named(name: str) -> "pa.DataType":
    """The Arrow type of a name, like float32, date, timestamp[us] or decimal128(12, 2). Raises ValueError if there is none."""
    import pyarrow as pa

    decimal = _DECIMAL.fullmatch(name)
    if decimal:
        return _decimal(int(decimal[1]), int(decimal[2]))
    return pa.date32() if name == "date" else pa.type_for_alias(name)


@dataclass(frozen=True)
class Columns:
    """The columns of a query's rows: their schema, and how a batch gets there."""

    query: str
    schema: "pa.Schema"

    def exact(self, batch: "pa.RecordBatch") -> "pa.RecordBatch":
        """A batch as it came, in these types. Raises SourceError if a value is none of its type."""
        import pyarrow as pa

        columns = [self._exact(column, field) for column, field in zip(batch.columns, self.schema, strict=True)]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _exact(self, column: "pa.Array", field: "pa.Field") -> "pa.Array":
        import pyarrow as pa

        try:
            made = (column.storage if isinstance(column, pa.ExtensionArray) else column).cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SourceError(
                f"{self.query}: the column {field.name} has a value that cannot be read as {field.type} "
                f"({first_line(error)}); leave such rows out, or CAST it to another type, as to DOUBLE PRECISION."
            ) from error
        if _is_beyond(made):
            raise SourceError(
                f"{self.query}: the column {field.name} has a day outside of the years 1 to 9999, like infinity; leave such "
                "rows out, or put another day there."
            )
        return made


def columns_of(came: "pa.Schema", query: str, types: Mapping[str, str], *, typed: bool) -> Columns:
    """The columns of what a driver gives.

    Args:
        came: what it says of them.
        query: the file, for messages.
        types: names of types, by column, where others are wanted.
        typed: whether the database knows types, so that those that are not in `types` are right.

    Raises:
        SourceError: a column has a type whose values do not come as they are, or `types` names one that is not there.
    """
    import pyarrow as pa

    missing = sorted(set(types) - set(came.names))
    if missing:
        raise SourceError(f"{query} does not give {', '.join(missing)}, which types names, only {', '.join(came.names)}.")
    untyped = [name for name in came.names if name not in types]
    if untyped and not typed:
        raise SourceError(
            f"{query}: the database does not say of what types its columns are; name them under types: {', '.join(untyped)}."
        )
    fields = [pa.field(field.name, _wanted(field, query, types.get(field.name))) for field in came]
    return Columns(query, pa.schema(fields))


def _wanted(field: "pa.Field", query: str, named: str | None) -> "pa.DataType":
    import pyarrow as pa

    wanted = type_named(named) if named else None
    if wanted is not None and pa.types.is_decimal(wanted) and pa.types.is_floating(field.type):
        raise SourceError(f"{query}: the column {field.name} comes as {field.type}, not exactly; CAST it to TEXT in the query.")
    said = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    own = said.get("POSTGRESQL:type", "")
    if wanted is not None and (own == "numeric" or not isinstance(field.type, pa.BaseExtensionType)):
        return wanted
    if own == "numeric":
        return _numeric(field.name, query, int(said.get("POSTGRESQL:typmod", -1)))
    if own in _INEXACT or _has_extension(field.type):
        raise SourceError(
            f"{query}: the column {field.name} is {own or field.type}, which does not come as it is; CAST it in the query, as "
            "to TEXT or to NUMERIC(18, 2)."
        )
    return field.type


def _numeric(name: str, query: str, modifier: int) -> "pa.DataType":
    """The exact type of a NUMERIC, by its type modifier."""
    digits, places = (modifier - _MODIFIER_OFFSET) >> 16, (modifier - _MODIFIER_OFFSET) & 0x7FF
    try:
        if modifier < _MODIFIER_OFFSET:
            raise ValueError
        return _decimal(digits, places)
    except ValueError:
        raise SourceError(
            f"{query}: the column {name} is a NUMERIC without digits and places that fit ({_MOST_DIGITS} digits at most); say "
            f"them in the query, as in CAST({name} AS NUMERIC(18, 2)), or CAST it to DOUBLE PRECISION."
        ) from None


def _decimal(digits: int, places: int) -> "pa.DataType":
    import pyarrow as pa

    if not (1 <= digits <= _MOST_DIGITS and places <= digits):
        raise ValueError(f"there is no decimal with {digits} digits, {places} of them after the point")
    return pa.decimal128(digits, places)


def _has_extension(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return True
    return any(_has_extension(kind.field(place).type) for place in range(kind.num_fields))


def _is_beyond(column: "pa.Array") -> bool:
    """Whether a column of days or time stamps has one outside of the years 1 to 9999."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_date32(column.type):
        number, each = pa.int32(), 1
    elif pa.types.is_timestamp(column.type) and column.type.unit in _UNITS:
        number, each = pa.int64(), 86_400 * _UNITS[column.type.unit]
    else:
        return False
    found = pc.min_max(column.cast(number)).as_py()
    return found["min"] is not None and not (_FIRST_DAY * each <= found["min"] and found["max"] < (_LAST_DAY + 1) * each)
