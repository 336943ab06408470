"""What a model's outputs mean: raw numbers -> records."""
