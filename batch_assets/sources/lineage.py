"""Which columns of which tables each column of a query is computed from, as far as its text alone says it."""

from collections.abc import Collection, Mapping, Sequence

from batch_assets.sources.closed import folded

Lineage = Mapping[str, Sequence[tuple[str, str]]]
"""A column -> (table, column) that it is computed from; a column of which that is not known is left out."""


def same_columns(table: str, columns: Collection[str]) -> Lineage:
    """The lineage of columns that are taken from a table as they are."""
    return {name: [(table, name)] for name in columns}


def lineage_of(query: str, dialect: str, tables: Collection[str], columns: Collection[str]) -> Lineage:
    """The lineage of a query's columns.

    Args:
        query: one SELECT; what stands for the partition may be in it.
        dialect: its SQL, as sqlglot calls it.
        tables: the tables that count; what comes of others is left out.
        columns: the columns that it gives.

    A column whose table is not said (`SELECT x FROM a JOIN b …`), or of a query that sqlglot does not understand, is left out.
    """
    from sqlglot import exp
    from sqlglot.errors import SqlglotError
    from sqlglot.lineage import lineage

    try:
        roots = lineage(None, query, {}, dialect=dialect)
    except (SqlglotError, ValueError, KeyError):
        return {}
    known, wanted = {folded(name): name for name in tables}, {folded(name): name for name in columns}
    found = dict[str, list[tuple[str, str]]]()
    for name, root in roots.items():
        leaves = [(one.expression, one.name) for one in root.walk() if isinstance(one.expression, exp.Table)]
        read = {(known[folded(table.name)], _column(said)) for table, said in leaves if folded(table.name) in known}
        if folded(name) in wanted and read:
            found[wanted[folded(name)]] = sorted(read)
    return found


def _column(said: str) -> str:
    """The column of what is called table.column."""
    return said.rpartition(".")[2].strip('"`')
