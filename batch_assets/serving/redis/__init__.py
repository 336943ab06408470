"""How the Redis store does it: commands over the wire, what is in a bucket, look-ups."""
