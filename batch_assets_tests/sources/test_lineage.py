import pytest

from batch_assets.sources.lineage import lineage_of

TABLES = ("orders", "users")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            "SELECT id, sum(amount)::FLOAT AS s FROM orders WHERE day <= $partition GROUP BY id",
            {"id": "orders.id", "s": "orders.amount"},
        ),
        (
            "SELECT u.id, o.n + u.age AS s FROM users u "
            "JOIN (SELECT id, count(x) AS n FROM orders GROUP BY 1) o ON o.id = u.id",
            {"id": "users.id", "s": "orders.x users.age"},
        ),
        (
            "WITH a AS (SELECT id, amount AS b FROM orders) SELECT id, max(b) AS s FROM a GROUP BY id",
            {"id": "orders.id", "s": "orders.amount"},
        ),
        ("SELECT id, 1 AS s FROM orders", {"id": "orders.id"}),
        ("SELECT id, count(*) AS s FROM orders GROUP BY id", {"id": "orders.id"}),
        ("SELECT orders.id, amount AS s FROM orders JOIN users ON users.id = orders.id", {"id": "orders.id"}),
        ("SELECT id, s FROM strangers", {}),
        ("SELECT ID, S FROM Orders", {"id": "orders.id", "s": "orders.s"}),
        ("this is no SQL (", {}),
        (
            "SELECT a.id, b.s FROM (SELECT id, amount AS s FROM orders UNION ALL SELECT id, age FROM users) b "
            "JOIN users a ON a.id = b.id",
            {"id": "users.id", "s": "orders.amount users.age"},
        ),
    ],
)
def test_what_a_query_is_computed_from(query: str, expected: dict[str, str]) -> None:
    found = lineage_of(query, "duckdb", TABLES, ["id", "s"])
    assert {name: " ".join(f"{table}.{column}" for table, column in read) for name, read in found.items()} == expected


@pytest.mark.parametrize("dialect", ["postgres", "sqlite", "bigquery", ""])
def test_it_understands_what_warehouses_speak(dialect: str) -> None:
    query = "SELECT o.id, avg(o.amount) AS s FROM marts.orders o WHERE o.day <= $partition GROUP BY o.id"
    assert lineage_of(query, dialect, TABLES, ["id", "s"]) == {"id": [("orders", "id")], "s": [("orders", "amount")]}
