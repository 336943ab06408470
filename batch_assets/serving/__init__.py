"""Stage 3: where predictions are looked up."""
