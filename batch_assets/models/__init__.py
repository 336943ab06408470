"""What scores the rows: immutable versions, their cards, and how a version is loaded."""
