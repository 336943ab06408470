"""The Dagster entry point: every pipeline under `defs/` and the shared resources."""

import dagster as dg

from batch_assets.orchestration.catalog import code_location


@dg.definitions
def defs() -> dg.Definitions:
    """The code location."""
    return code_location()
