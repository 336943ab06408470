"""Look-ups over HTTP: keys -> records, rows -> records on a miss, a page for a person, and what monitoring asks."""
