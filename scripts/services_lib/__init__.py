"""Real engines for development and tests, without containers: Redis, Kafka and Cassandra as plain
processes on loopback, one or three of each, under one folder.

Standard library only, and nothing of feedcore: it runs before anything is built. Not for
production: heaps and timeouts are those of a laptop.
"""
