"""Where predictions are looked up: stores, the releases in them, and readers."""
