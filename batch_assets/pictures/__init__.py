"""Pictures of what was found, for the UI and the docs: what they show is handed to them."""
