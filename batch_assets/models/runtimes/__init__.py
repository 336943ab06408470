"""What a model file can be: one runtime for each library that computes with models."""
