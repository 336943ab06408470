"""What the PostgreSQL store is made of: columns, their messages, the objects of its schema, connections, look-ups."""
