"""What `dg scaffold defs batch_assets.ScoringPipeline NAME` writes: a pipeline that runs as it stands."""
