"""A chunk through the model, from frozen rows to records: the part that must be fast and exact."""
