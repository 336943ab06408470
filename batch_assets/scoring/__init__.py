"""Stage 2: the part that must be fast and exact."""
