"""What the files of a table have in common, by their footers: one column for each name, of one type, or why it has none.

Two readers look at each footer. What Arrow says a column is and what DuckDB reads it as must be the same values; a pair that
is not known to be so is not read. Of files that differ, the widest type that is there is taken if all others fit into it.
"""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import SourceError
from batch_assets.sources.closed import folded
from batch_assets.sources.listed import ListedFile

_READ_AS = {
    "bool": "BOOLEAN",
    **{f"{sign}int{bits}": f"{sign.upper()}{name}" for sign in ("", "u") for bits, name in
       ((8, "TINYINT"), (16, "SMALLINT"), (32, "INTEGER"), (64, "BIGINT"))},
    "halffloat": "FLOAT",
    "float": "FLOAT",
    "double": "DOUBLE",
    **dict.fromkeys(("string", "large_string", "string_view"), "VARCHAR"),
    **dict.fromkeys(("binary", "large_binary", "binary_view"), "BLOB"),
    "date32[day]": "DATE",
    **dict.fromkeys(("time32[ms]", "time64[us]"), "TIME"),
    "time64[ns]": "TIME_NS",
    "null": '"NULL"',
    "extension<arrow.uuid>": "UUID",
    "extension<arrow.json>": "JSON",
}  # fmt: skip
"""Arrow types and the DuckDB types that hold the same values; see also `_is_read_as`."""

_WIDER: dict[str, tuple[str, ...]] = {
    "TINYINT": ("SMALLINT", "INTEGER", "BIGINT"),
    "SMALLINT": ("INTEGER", "BIGINT"),
    "INTEGER": ("BIGINT",),
    "UTINYINT": ("USMALLINT", "UINTEGER", "UBIGINT", "SMALLINT", "INTEGER", "BIGINT"),
    "USMALLINT": ("UINTEGER", "UBIGINT", "INTEGER", "BIGINT"),
    "UINTEGER": ("UBIGINT", "BIGINT"),
    "FLOAT": ("DOUBLE",),
    "TIMESTAMP": ("TIMESTAMP_NS",),
    "TIMESTAMP WITH TIME ZONE": ("TIMESTAMPTZ_NS",),
}
"""DuckDB types and those that hold every value of them. A time stamp that does not fit into nanoseconds is DuckDB's error."""

Describe = Callable[[ListedFile], Sequence[object]]
"""Asks DuckDB for the types of a file's columns, in the file's order; the text of a type is how SQL writes it."""


@dataclass(frozen=True)
class FileColumn:
    """A column as files of one shape have it; `int96` if it holds the time stamps that Spark and Impala wrote of old."""

    name: str
    arrow: str
    duck: str
    same: bool
    int96: bool


@dataclass(frozen=True)
class Shape:
    """Files whose columns are the same in the same order."""

    files: tuple[ListedFile, ...]
    columns: tuple[FileColumn, ...]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    `places` says where each shape has it, or None; `trouble` says why nobody may read it; `told` is what is worth knowing.
    """

    name: str
    duck: str
    places: tuple[int | None, ...]
    trouble: str | None = None
    told: str | None = None


@dataclass(frozen=True)
class Agreement:
    """What is read as one table; `rows` says how many each file has."""

    shapes: tuple[Shape, ...]
    columns: tuple[Column, ...]
    rows: dict[str, int]


@dataclass(frozen=True)
class _Footer:
    file: ListedFile
    rows: int
    schema: pa.Schema
    parquet: str
    physical: list[str]


def agree(table: str, files: Sequence[ListedFile], optional: Sequence[str], describe: Describe) -> Agreement:
    """Read every footer and say what the files have in common.

    Args:
        table: its name, for messages.
        files: its files.
        optional: columns that some of them may lack.
        describe: asks DuckDB.

    Raises:
        SourceError: a footer cannot be read.
    """
    with ThreadPoolExecutor(8) as pool:
        footers = list(pool.map(lambda file: _footer(table, file), files))
    by_shape: dict[str, list[_Footer]] = {}
    for footer in footers:
        by_shape.setdefault(f"{footer.schema.to_string(show_schema_metadata=False)}\n{footer.parquet}", []).append(footer)
    shapes = tuple(_shape(table, same, describe) for same in by_shape.values())
    names: dict[str, str] = {}
    for shape in shapes:
        for column in shape.columns:
            names.setdefault(folded(column.name), column.name)
    names.pop("", None)  # SQL has no way to ask for a column without a name
    may_lack = {folded(name) for name in optional}
    columns = tuple(_column(table, name, shapes, key in may_lack) for key, name in names.items())
    return Agreement(shapes, columns, {footer.file.path: footer.rows for footer in footers})


def _footer(table: str, file: ListedFile) -> _Footer:
    if file.size == 0:
        raise SourceError(f"The table {table}: {file.path} is empty (0 bytes); write it again, or take it away.")
    try:
        with pq.ParquetFile(file.local) as parquet:
            metadata, schema = parquet.metadata, parquet.schema_arrow
            leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
            physical = {leaf.path: leaf.physical_type for leaf in leaves}
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        advice = "write it without encryption" if "ncrypted" in str(error) else "write it again, or take it away"
        raise SourceError(
            f"The table {table}: {file.path} cannot be read as a Parquet file: {_reason(error)}; {advice}."
        ) from error
    except NotImplementedError as error:
        raise SourceError(f"The table {table}: {file.path} has a column that Arrow cannot read: {_reason(error)}.") from error
    text = "\n".join(str(metadata.schema).splitlines()[1:])
    return _Footer(file, metadata.num_rows, schema, text, [physical.get(name, "") for name in schema.names])


def _shape(table: str, footers: Sequence[_Footer], describe: Describe) -> Shape:
    first = footers[0]
    types = describe(first.file)
    if len(types) != len(first.schema):
        raise SourceError(
            f"The table {table}: {first.file.path} has {len(first.schema)} columns for Arrow, but {len(types)} for DuckDB; "
            "write it anew with another program."
        )
    columns = tuple(
        FileColumn(
            name=field.name,
            arrow=str(field.type),
            duck=str(duck),
            same=_is_read_as(field.type, duck, int96 := physical == "INT96"),
            int96=int96,
        )
        for field, duck, physical in zip(first.schema, types, first.physical, strict=True)
    )
    return Shape(tuple(footer.file for footer in footers), columns)


def _column(table: str, name: str, shapes: Sequence[Shape], optional: bool) -> Column:
    """What all shapes have by one name."""
    found = [[place for place, one in enumerate(shape.columns) if folded(one.name) == folded(name)] for shape in shapes]
    there = [(shape, shape.columns[place]) for shape, places in zip(shapes, found, strict=True) for place in places]
    places = tuple(one[0] if one else None for one in found)
    duck, told = there[0][1].duck, None
    trouble = _named_otherwise(table, found, shapes, there)
    if trouble is None:
        trouble = next((_unreadable(table, shape, one) for shape, one in there if not one.same), None)
    if trouble is None:
        duck, trouble, told = _widest(table, there)
    lacking = next((shape for shape, place in zip(shapes, places, strict=True) if place is None), None)
    if trouble is None and lacking is not None:
        where, other = lacking.files[0].path, there[0][0].files[0].path
        phrase = f"{name} is in {other}, but not in {where}"
        trouble = None if optional else (
            f"The column {name} of the table {table} {phrase.removeprefix(name + ' ')}: name it under optional if it may be "
            "missing (it is null there), or write the file with it."
        )  # fmt: skip
        told = "; ".join(filter(None, [told, f"{phrase}, where it is null"]))
    return Column(name, duck, places, trouble, told)


def _named_otherwise(
    table: str, found: Sequence[list[int]], shapes: Sequence[Shape], there: Sequence[tuple[Shape, FileColumn]]
) -> str | None:
    for places, shape in zip(found, shapes, strict=True):
        names = [shape.columns[place].name for place in places]
        if len(names) > 1:
            what = f"the column {names[0]} twice" if len(set(names)) == 1 else f"columns {' and '.join(names)}"
            why = "" if len(set(names)) == 1 else ", which SQL does not tell apart"
            return f"The table {table}: {shape.files[0].path} has {what}{why}; give each a name of its own."
    first_shape, first = there[0]
    for shape, one in there:
        if one.name != first.name:
            return (
                f"The table {table} has a column {first.name} in {first_shape.files[0].path} and {one.name} in "
                f"{shape.files[0].path}, which SQL does not tell apart; give them one name."
            )
    return None


def _unreadable(table: str, shape: Shape, one: FileColumn) -> str:
    return (
        f"The column {one.name} of the table {table} is {one.arrow} in {shape.files[0].path}, and DuckDB would read it as "
        f"{one.duck}, which has not the same values; write it as another type."
    )


def _widest(table: str, there: Sequence[tuple[Shape, FileColumn]]) -> tuple[str, str | None, str | None]:
    """The type that holds every value of all others; or trouble, if there is none; and what is told of it."""
    for shape, one in there:
        narrower = [other for other in there if other[1].duck != one.duck]
        if all(_widens(other.duck, one.duck) for _, other in narrower):
            told = (
                f"{one.name} is {narrower[0][1].arrow} in {narrower[0][0].files[0].path} and read as {one.arrow}, as it is in "
                f"{shape.files[0].path}"
                if narrower
                else None
            )
            return one.duck, None, told
    (first_shape, first), (shape, one) = next(
        (a, b)
        for a, b in combinations(there, 2)
        if a[1].duck != b[1].duck and not _widens(a[1].duck, b[1].duck) and not _widens(b[1].duck, a[1].duck)
    )
    trouble = (
        f"The column {one.name} of the table {table} is {first.arrow} in {first_shape.files[0].path}, but {one.arrow} in "
        f"{shape.files[0].path}: neither holds all values of the other; write them with one type."
    )
    return first.duck, trouble, None


def _widens(narrow: str, wide: str) -> bool:
    """Whether every value of a DuckDB type is one of another."""
    if narrow == '"NULL"' or wide in _WIDER.get(narrow, ()):
        return True
    decimals = [re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", one) for one in (narrow, wide)]
    if not all(decimals):
        return False
    (digits, scale), (wide_digits, wide_scale) = (map(int, one.groups()) for one in decimals if one)
    return wide_scale >= scale and wide_digits - wide_scale >= digits - scale


def _is_read_as(arrow: pa.DataType, duck: object, int96: bool = False) -> bool:
    """Whether an Arrow type and a DuckDB type hold the same values."""
    if pa.types.is_dictionary(arrow):
        return _is_read_as(arrow.value_type, duck)
    if pa.types.is_fixed_size_binary(arrow):
        return str(duck) == "BLOB"
    if pa.types.is_decimal(arrow):
        return str(duck) == f"DECIMAL({arrow.precision},{arrow.scale})"
    if pa.types.is_timestamp(arrow):
        zone = arrow.tz is not None
        if int96:  # that nothing is below a microsecond is looked at before it is read
            return str(duck) == "TIMESTAMP"
        if arrow.unit == "ns":
            return str(duck) == ("TIMESTAMPTZ_NS" if zone else "TIMESTAMP_NS")
        return str(duck) == ("TIMESTAMP WITH TIME ZONE" if zone else "TIMESTAMP")
    if pa.types.is_nested(arrow):
        return _nested_is_read_as(arrow, duck)
    return _READ_AS.get(str(arrow)) == str(duck)


def _nested_is_read_as(arrow: pa.DataType, duck: object) -> bool:
    kind = getattr(duck, "id", "")
    children = dict(getattr(duck, "children", ())) if kind in ("struct", "map", "list") else {}
    if pa.types.is_struct(arrow):
        names = [field.name for field in arrow]
        return (
            kind == "struct"
            and len({folded(name) for name in names}) == len(names)
            and list(children) == names
            and all(_is_read_as(field.type, children[field.name]) for field in arrow)
        )
    if pa.types.is_map(arrow):
        return (
            kind == "map" and _is_read_as(arrow.key_type, children["key"]) and _is_read_as(arrow.item_type, children["value"])
        )
    return kind == "list" and hasattr(arrow, "value_type") and _is_read_as(arrow.value_type, children["child"])


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
