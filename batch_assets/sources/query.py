"""What a query may be: one SELECT over the tables that the YAML names.

DuckDB parses it and hands its tree over as JSON. A SELECT alone is no sla: `WITH x AS (COPY … TO …)` is a part of one,
and functions in its FROM read files, settings and memory.
"""

import json
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from batch_assets.errors import SourceError
from batch_assets.sources.closed import folded

if TYPE_CHECKING:
    import duckdb

_SELECTS = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_PLACES = {"BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT", "COLUMN_DATA"}
_FUNCTIONS = {"range", "generate_series", "unnest", "repeat", "json_each", "json_tree"}
"""Functions in a FROM that make rows out of their arguments alone."""


def require_select(connection: "duckdb.DuckDBPyConnection", query: str, path: str, tables: Collection[str]) -> str:
    """The text of the one statement in a query.

    Args:
        connection: parses it.
        query: what the file holds.
        path: the file, for messages.
        tables: the names that it may read.

    Raises:
        SourceError: it is something else than one SELECT over these tables that uses `$partition`.
        duckdb.Error: it does not parse.
    """
    statements = connection.extract_statements(query)
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        hint = "; PIVOT must name the values that it looks for, by IN" if kinds == ["MULTI"] else ""
        raise SourceError(f"{path} has {' and '.join(kinds) or 'no statement'}: it must be one SELECT statement{hint}.")
    parameters = statements[0].named_parameters
    if "partition" not in parameters:
        raise SourceError(f"{path} never uses $partition: every day would have the same rows.")
    if len(parameters) > 1:
        others = ", ".join(sorted(f"${name}" for name in parameters - {"partition"}))
        raise SourceError(f"{path} asks for {others}: $partition is all that it is told.")
    text = statements[0].query.strip().rstrip(";")
    (row,) = connection.execute("SELECT json_serialize_sql($query::VARCHAR)", {"query": text}).fetchall()
    tree = json.loads(row[0])
    if tree["error"]:
        raise SourceError(f"{path} cannot be looked through: {tree['error_message']}.")
    known = {folded(name) for name in (*tables, *_named_in(tree))}
    for node in _nodes(tree):
        forbidden = _forbidden(node, known)
        if forbidden:
            raise SourceError(f"{path} {forbidden}: it may read the tables that the YAML names ({', '.join(tables)}), no more.")
    return text


def _forbidden(node: dict[str, Any], known: Collection[str]) -> str | None:
    """What a node of the tree does that is not reading a table; None if it does no such thing."""
    kind = node.get("type")
    if not isinstance(kind, str) or "class" in node:
        return None
    if (kind.endswith("_NODE") and kind not in _SELECTS) or ("sample" in node and kind not in _SELECTS | _PLACES):
        return f"does more than a SELECT may ({kind.removesuffix('_QUERY_NODE').removesuffix('_REF')})"
    if kind == "BASE_TABLE":
        *schema, name = node["qualified_name"]["path"]
        if folded(name) not in known or schema not in ([], ["main"], ["memory", "main"]):
            return f"reads {'.'.join([*schema, name])}"
    if kind == "TABLE_FUNCTION" and folded(node["function"]["function_name"]) not in _FUNCTIONS:
        return f"calls {node['function']['function_name']} in its FROM"
    return None


def _named_in(tree: Any) -> list[str]:
    """The names that a WITH gives."""
    maps = [node["cte_map"]["map"] for node in _nodes(tree) if "cte_map" in node]
    return [entry["key"] for one in maps for entry in one] + [
        node["ctename"] for node in _nodes(tree) if node.get("type") == "RECURSIVE_CTE_NODE" and "ctename" in node
    ]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object in a tree, without recursion: a query may be nested deeply."""
    left = [tree]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield one
            left += one.values()
        elif isinstance(one, list):
            left += one
