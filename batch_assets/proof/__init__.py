"""What shows that a run is complete and right: keys, values, precision."""
