"""The cluster profile: CQL for truth, Redis for freshness between nodes, Kafka for fan-out."""
