"""The use cases without Dagster, one verb a file."""
