"""What the Cassandra store is made of: a connection, what it says of releases, their rows in bytes, and look-ups."""
