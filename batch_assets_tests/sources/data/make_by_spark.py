"""Make the tables of this folder, by Spark itself: `python make_by_spark.py FOLDER_OF_JARS`; README.md says with what."""

import shutil
import sys
import tempfile
from pathlib import Path

from pyspark.sql import SparkSession

HERE = Path(__file__).parent
ROWS = """
    SELECT id AS user, CAST(id / 8 AS float) AS x, concat('u', id) AS word, CAST(id / 100 AS decimal(20, 2)) AS amount,
        DATE '2024-03-10' + CAST(id % 2 AS int) AS day,
        CASE id WHEN 1 THEN TIMESTAMP '0001-01-01 00:00:00' WHEN 2 THEN TIMESTAMP '9999-12-31 23:59:59.999999'
            ELSE TIMESTAMP '2024-03-10 02:30:00.000001' END AS at
    FROM range(0, 1000, 1, 1)
"""


def session(jars: str, warehouse: str) -> SparkSession:
    """A Spark on this machine that knows both formats."""
    settings = {
        "spark.jars": ",".join(str(jar) for jar in Path(jars).glob("*.jar")),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension,"
        "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.catalog.lake": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.lake.type": "hadoop",
        "spark.sql.catalog.lake.warehouse": warehouse,
        "spark.sql.session.timeZone": "UTC",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
    }
    builder = SparkSession.builder.master("local[1]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def make(spark: SparkSession, warehouse: Path) -> None:
    """Each table has 1,000 rows of two days, of which then 100 are deleted."""
    delta = warehouse / "delta_with_deletion_vectors"
    spark.sql(f"CREATE TABLE delta.`{delta}` USING delta TBLPROPERTIES ('delta.enableDeletionVectors' = 'true') AS {ROWS}")
    spark.sql(f"DELETE FROM delta.`{delta}` WHERE user % 10 = 3")
    said = "'format-version' = '2', 'write.delete.mode' = 'merge-on-read'"
    spark.sql(f"CREATE TABLE lake.db.rows USING iceberg TBLPROPERTIES ({said}) AS {ROWS}")
    spark.sql("DELETE FROM lake.db.rows WHERE user % 10 = 3")


def main() -> None:
    """Make them in a folder of the system, and bring them here."""
    with tempfile.TemporaryDirectory() as folder:
        spark = session(sys.argv[1], folder)
        make(spark, Path(folder))
        spark.stop()
        for made, name in {"delta_with_deletion_vectors": None, "db/rows": "iceberg_with_positional_deletes"}.items():
            target = HERE / (name or made)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(Path(folder) / made, target, ignore=shutil.ignore_patterns("*.crc", "_SUCCESS"))


if __name__ == "__main__":
    main()
