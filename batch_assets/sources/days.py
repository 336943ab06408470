"""The days of a table whose metadata know the smallest and largest value of each file: which rows, which files, how new."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from batch_assets.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa

_ONE_DAY = timedelta(days=1)
_FARTHEST = timedelta(hours=15)
"""No time zone is so far from UTC."""

_DATE_SIGNS = 10
"""Of a text, like 2026-01-31; a time may follow."""

_FIRST_YEAR, _LAST_YEAR = 2, 9998
"""Beyond them nothing is narrowed down, as a time zone could lead to where Python has no dates."""


@dataclass(frozen=True)
class Span:
    """Days from `first` to `last`, both among them; None is any."""

    first: date | None
    last: date | None


@dataclass(frozen=True)
class DayColumn:
    """The column that says to which day a row belongs: dates, time stamps, or texts that begin with a date.

    Args:
        table: what messages call the table.
        name: the column's name.
        type: its type in Arrow.
        timezone: where a day begins and ends, if the time stamps are points in time.
    """

    table: str
    name: str
    type: "pa.DataType"
    timezone: str

    @classmethod
    def of(cls, table: str, schema: "pa.Schema", name: str, timezone: str) -> "DayColumn":
        """The column of that name. Raises SourceError if there is none, or if it has no days."""
        import pyarrow as pa

        if name not in schema.names:
            raise SourceError(f"{table} has no column {name}, which its setting day names, only {', '.join(schema.names)}.")
        found = schema.field(name).type
        kinds = (pa.types.is_date, pa.types.is_timestamp, pa.types.is_string, pa.types.is_large_string)
        if not any(is_kind(found) for is_kind in kinds):
            raise SourceError(f"{table}: the day {name} is {found}, which is no date; name a column of dates or time stamps.")
        return cls(table, name, found, timezone)

    @property
    def is_text(self) -> bool:
        """Whether its values are texts."""
        import pyarrow as pa

        return bool(pa.types.is_string(self.type) or pa.types.is_large_string(self.type))

    @property
    def in_time(self) -> bool:
        """Whether its values are points in time, of which the time zone makes days."""
        import pyarrow as pa

        return bool(pa.types.is_timestamp(self.type)) and self.type.tz is not None

    def days(self, values: "pa.Array") -> "pa.Array":
        """The days of values, as date32; what no date of Python is becomes the nearest one.

        Raises:
            SourceError: a text is no date.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.in_time:
            values = pc.local_timestamp(values.cast(pa.timestamp(self.type.unit, self.timezone)))
        if self.is_text:
            values = pc.utf8_slice_codeunits(values.cast(pa.string()), 0, _DATE_SIGNS)
        try:
            found = values.cast(pa.date32(), safe=False)
        except pa.ArrowInvalid as error:
            raise SourceError(f"{self.table}: a value of the day {self.name} is no date ({error}); correct it.") from error
        no_later = pc.min_element_wise(found, pa.scalar(date.max), skip_nulls=False)
        return pc.max_element_wise(no_later, pa.scalar(date.min), skip_nulls=False)

    def bounds(self, span: Span) -> tuple[str | None, str | None]:
        """The value from which on and the one before which the values of a span are, in ISO format; None: there is no bound.

        Values of other days may be between them, where clocks are changed. So the days of rows are looked at once more.
        """
        after = span.last + _ONE_DAY if span.last and span.last < date.max else None
        return self._iso(span.first, max), self._iso(after, min)

    def _iso(self, day: date | None, choose: "Callable[[Iterable[timedelta]], timedelta]") -> str | None:
        """When a day begins: by `max` of the zone's distances from UTC the earliest such time, by `min` the latest one."""
        import pyarrow as pa

        if day is None or not _FIRST_YEAR <= day.year <= _LAST_YEAR:
            return None
        if not pa.types.is_timestamp(self.type):
            return day.isoformat()
        midnight = datetime.combine(day, time())
        if not self.in_time:
            return midnight.isoformat()
        zone, around = ZoneInfo(self.timezone), midnight.replace(tzinfo=UTC)
        near = (around - _FARTHEST, around + _FARTHEST)
        return (around - choose(moment.astimezone(zone).utcoffset() or timedelta() for moment in near)).isoformat()


@dataclass(frozen=True)
class FileDays:
    """What metadata say of the days of one file.

    Args:
        rows: how many of its rows have a day; None if nobody knows.
        first: no row has an earlier day; None if nobody knows, or there is no row.
        last: no row has a later one.
        tight: whether there are rows of these two days.
    """

    rows: int | None = None
    first: date | None = None
    last: date | None = None
    tight: bool = False

    @classmethod
    def told(cls, rows: int, nulls: int | None, first: date | None, last: date | None, deleted: int | None = 0) -> "FileDays":
        """What statistics make known.

        Args:
            rows: how many were written, deleted ones among them.
            nulls: how many of these have no day.
            first: the earliest day that was written.
            last: the latest one.
            deleted: how many are deleted; None if some may be.
        """
        if nulls == rows:
            return cls(rows=0)
        if nulls is None or first is None or last is None or deleted is None or (deleted and nulls):
            return cls(None, first, last)
        left = rows - nulls - deleted
        return cls(left, first, last, tight=not deleted or (first == last and left > 0))

    def may_hold(self, span: Span) -> bool:
        """Whether a row of these days can be in the file."""
        if self.rows == 0:
            return False
        ends_before = span.first is not None and self.last is not None and self.last < span.first
        begins_after = span.last is not None and self.first is not None and self.first > span.last
        return not ends_before and not begins_after

    def newest_until(self, last: date) -> date | None:
        """The newest day of a row, if that is known and it is not after `last`."""
        return self.last if self.tight and self.last is not None and self.last <= last else None


@dataclass(frozen=True)
class Dates:
    """What a provenance says of the dates of a table."""

    newest: date | None
    newest_until_day: date | None
    rows_of_day: int


def dates(files: Sequence[FileDays], day: date, read: "Callable[[Span], Iterator[pa.Array]]") -> Dates:
    """How new a table is. Rows are read only where metadata do not say it.

    Args:
        files: what is known of each file.
        day: the partition's.
        read: the days of the rows whose days are in a span.
    """
    of_day = [file for file in files if file.may_hold(Span(day, day))]
    counted = [file.rows for file in of_day if file.first == file.last == day and file.rows is not None]
    rows = sum(counted) if len(counted) == len(of_day) else sum(len(days) for days in read(Span(day, day)))
    newest_until_day = day if rows else _newest(files, Span(None, day - _ONE_DAY), read)
    newest = _newest(files, Span(newest_until_day, None), read)
    return Dates(newest, newest_until_day, rows)


def _newest(files: Sequence[FileDays], span: Span, read: "Callable[[Span], Iterator[pa.Array]]") -> date | None:
    """The newest day of a row in a span; its first day, if it has one, is that of some row."""
    import pyarrow.compute as pc

    last = span.last or date.max
    told = [file.newest_until(last) for file in files]
    newest = max(filter(None, [span.first, *told]), default=None)
    if newest == last:
        return newest
    newer = Span(newest + _ONE_DAY if newest else None, span.last)
    if any(file.may_hold(newer) for file, said in zip(files, told, strict=True) if said is None):
        found = [pc.max(days).as_py() for days in read(newer) if len(days)]
        return max(found, default=newest)
    return newest


def rows_of_day(rows: "Iterable[pa.RecordBatch]", column: DayColumn, day: date) -> "Iterator[pa.RecordBatch]":
    """The rows of a day, of rows among which there may be others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for batch in rows:
        belongs = pc.equal(column.days(batch[column.name]), pa.scalar(day))
        yield batch if pc.all(belongs, skip_nulls=False).as_py() else batch.filter(belongs)


def days_within(rows: "Iterable[pa.RecordBatch]", column: DayColumn, span: Span) -> "Iterator[pa.Array]":
    """The days of rows, of those that are in a span."""
    import pyarrow.compute as pc

    for batch in rows:
        days = column.days(batch[column.name]).drop_null()
        if span.first is not None:
            days = days.filter(pc.greater_equal(days, span.first))
        if span.last is not None:
            days = days.filter(pc.less_equal(days, span.last))
        yield days
