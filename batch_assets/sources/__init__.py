"""Where rows come from: a day -> ordered record batches, and what was read."""
