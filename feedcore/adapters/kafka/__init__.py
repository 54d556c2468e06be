"""Fan-out queue, outbox relay and feed events on Kafka. Needs the extra `cluster`."""
