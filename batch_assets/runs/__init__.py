"""What a scoring run leaves behind: chunks, their commits and rejects, the manifest."""
