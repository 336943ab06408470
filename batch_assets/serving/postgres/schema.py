"""The objects of a schema of PostgreSQL, and the SQL that makes them and asks them.

`builds` has every try to build a release, `pointers` every release that went live; of a pipeline the highest number is live.
Its releases are partitions of one table, of another if keys or records change, and its view `<pipeline>_live` is the live one.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from batch_assets.serving.postgres.columns import Column, field_column, key_column, literal, quoted
from batch_assets.serving.store import Release

BUILD = quoted("_build")
"""The column by which releases are partitions; no field of a record is called so."""


@dataclass(frozen=True)
class Schema:
    """A schema, and the tables in it that are not about one pipeline alone."""

    name: str

    def __str__(self) -> str:
        return quoted(self.name)

    @property
    def builds(self) -> str:
        """Every try to build a release, until it is dropped; a row of it is locked as long as somebody builds."""
        return f"{self}.builds"

    @property
    def pointers(self) -> str:
        """Every release that went live, until it is dropped."""
        return f"{self}.pointers"

    @property
    def made(self) -> str:
        """What makes both tables."""
        return f"""
            CREATE TABLE IF NOT EXISTS {self.builds} (
                build int4 PRIMARY KEY, pipeline text NOT NULL, root text NOT NULL, "table" text NOT NULL,
                release json NOT NULL, since timestamptz NOT NULL DEFAULT now());
            CREATE TABLE IF NOT EXISTS {self.pointers} (
                pipeline text, number int8, build int4 NOT NULL, root text NOT NULL, release json NOT NULL,
                since timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (pipeline, number));
            COMMENT ON TABLE {self.builds} IS 'Tries to build a release.';
            COMMENT ON TABLE {self.pointers} IS 'Releases that went live; of a pipeline the highest number is live.';
            """

    @property
    def newest(self) -> str:
        """What is live of the pipeline $1."""
        return (
            f"SELECT number, build, root, release::text FROM {self.pointers} WHERE pipeline = $1 ORDER BY number DESC LIMIT 1"
        )


@dataclass(frozen=True)
class Objects:
    """What a release is or belongs to: its pipeline's view, the table of which it is a partition, that partition."""

    schema: Schema
    release: Release

    @cached_property
    def keys(self) -> list[Column]:
        """The columns of the key."""
        return [key_column(key) for key in self.release.key]

    @cached_property
    def fields(self) -> list[Column]:
        """The columns of the records."""
        return [field_column(field) for field in self.release.record.fields]

    @cached_property
    def parent_name(self) -> str:
        """The table that the pipeline's releases with these keys and records are partitions of."""
        shape = [self.release.pipeline, [one.model_dump() for one in self.release.key], self.release.record.model_dump()]
        return f"{self.release.pipeline[:40]}__{hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:8]}"

    @property
    def parent(self) -> str:
        """That table."""
        return f"{self.schema}.{quoted(self.parent_name)}"

    @property
    def known(self) -> str:
        """A function that gives the builds that are attached; see `view_made`."""
        return f"{self.schema}.{quoted(f'{self.parent_name}_builds')}()"

    @property
    def view(self) -> str:
        """The live release."""
        return f"{self.schema}.{quoted(f'{self.release.pipeline[:58]}_live')}"

    @property
    def table(self) -> str:
        """The release."""
        return f"{self.schema}.{quoted(self.release.built['table'])}"

    @property
    def build(self) -> int:
        """The number of the try that built it."""
        return int(self.release.built["build"])

    def table_name(self, build: int) -> str:
        """What the partition of a try is called."""
        return f"{self.release.pipeline[:40]}_{self.release.partition.replace('-', '_')}_{build:08x}"

    @property
    def parent_made(self) -> str:
        """What makes the parent, and the function, if they are not there."""
        columns = ", ".join(
            [
                *(f"{quoted(one.name)} {one.sql} NOT NULL" for one in self.keys),
                f"{BUILD} int4 NOT NULL",
                *(f"{quoted(one.name)} {one.sql} NOT NULL" for one in self.fields),
            ]
        )
        comments = [
            f"COMMENT ON TABLE {self.parent} IS {literal(f'Releases of {self.release.pipeline}, each a partition.')}",
            *(
                f"COMMENT ON COLUMN {self.parent}.{quoted(one.name)} IS {literal(_places(one))}"
                for one in self.fields
                if one.names
            ),
        ]
        return f"CREATE TABLE {self.parent} ({columns}) PARTITION BY LIST ({BUILD}); {'; '.join(comments)}; {self.knows([])}"

    def knows(self, builds: list[int]) -> str:
        """What lets the function give these builds; whoever holds a lock of the parent against changes may say so."""
        return f"""
            CREATE OR REPLACE FUNCTION {self.known} RETURNS int4[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
            AS 'SELECT ARRAY[{", ".join(map(str, builds))}]::int4[]'"""

    @property
    def attached(self) -> str:
        """The builds that are partitions of the parent."""
        return f"""
            SELECT build FROM {self.schema.builds} JOIN pg_inherits
            ON inhrelid = to_regclass({literal(str(self.schema))} || '.' || quote_ident("table"))
            WHERE inhparent = to_regclass({literal(self.parent)}) ORDER BY build"""

    @property
    def table_made(self) -> str:
        """What makes the table of the release, not a partition yet: nobody sees it, and it is indexed once it is full.

        It is frozen as it is filled and then never changed, so there is nothing in it for autovacuum. As each row is checked
        when it comes, `attach` does not read them again.
        """
        release = self.release
        told = (
            f"{release.pipeline} of {release.partition} by {release.model.name} {release.model.version}, run {release.run_id}"
        )
        return f"""
            CREATE TABLE {self.table} (LIKE {self.parent} INCLUDING COMMENTS, CHECK ({BUILD} = {self.build}))
            WITH (autovacuum_enabled = false);
            ALTER TABLE {self.table} ALTER COLUMN {BUILD} SET DEFAULT {self.build};
            COMMENT ON TABLE {self.table} IS {literal(told)}"""

    @property
    def copy(self) -> str:
        """What fills it."""
        columns = ", ".join(quoted(one.name) for one in (*self.keys, *self.fields))
        return f"COPY {self.table} ({columns}) FROM STDIN (FORMAT binary, FREEZE)"

    @property
    def indexed(self) -> str:
        """What makes it quick to ask."""
        key = ", ".join(quoted(one.name) for one in self.keys)
        return f"ALTER TABLE {self.table} ADD PRIMARY KEY ({key}); ANALYZE {self.table}"

    @property
    def attach(self) -> str:
        """What makes it a partition; no reader waits for that."""
        return f"ALTER TABLE {self.parent} ATTACH PARTITION {self.table} FOR VALUES IN ({self.build})"

    @property
    def view_made(self) -> str:
        """What makes the view.

        A statement whose plan is older than a release lacks its partition, and would find nothing: within a transaction
        PostgreSQL goes on with plans of prepared statements. So a plan has the builds that it knows in it, as a constant, and
        the view is the newest release among them.
        """
        key = [f"r.{quoted(one.name)}" for one in self.keys]
        fields = [_shown(one) for one in self.fields]
        return f"""
            CREATE VIEW {self.view} AS SELECT {", ".join([*key, *fields])} FROM {self.parent} AS r WHERE r.{BUILD} = (
                SELECT p.build FROM {self.schema.pointers} AS p
                WHERE p.pipeline = {literal(self.release.pipeline)} AND p.build = ANY ({self.known})
                ORDER BY p.number DESC LIMIT 1);
            COMMENT ON VIEW {self.view} IS {literal(f"The live release of {self.release.pipeline}.")}"""

    @property
    def is_view_there(self) -> str:
        """Whether the view is there and shows the parent."""
        return f"""
            SELECT EXISTS (SELECT FROM pg_depend JOIN pg_rewrite ON pg_rewrite.oid = objid AND classid = 'pg_rewrite'::regclass
            WHERE ev_class = to_regclass({literal(self.view)}) AND refobjid = to_regclass({literal(self.parent)}))"""


def readers(relation: str) -> str:
    """Asks who may read a relation, names in SQL, "" if everybody may."""
    return f"""
        SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
        FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = to_regclass({literal(relation)}) AND privilege_type = 'SELECT'"""


def _places(column: Column) -> str:
    return ", ".join(f"{place}: {name}" for place, name in enumerate(column.names))


def _shown(column: Column) -> str:
    """A column as the view has it: names instead of their places."""
    name = quoted(column.name)
    if not column.names:
        return f"r.{name}"
    return f"(ARRAY[{', '.join(map(literal, column.names))}])[r.{name} + 1] AS {name}"
