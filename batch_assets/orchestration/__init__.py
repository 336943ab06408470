"""The Dagster side: pipelines as assets, checks and jobs."""
