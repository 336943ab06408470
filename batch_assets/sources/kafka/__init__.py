"""A topic of Kafka: what is asked of a cluster, which messages are read, what they say, and which of them stand."""
