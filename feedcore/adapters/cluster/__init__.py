"""The cluster profile: CQL for truth, Redis for validation between nodes, Kafka for fan-out."""
