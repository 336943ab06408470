"""The pipelines: one folder each, with a defs.yaml."""
