"""What is frozen: the contract, keys, a snapshot with its profile, and what was read for it."""
