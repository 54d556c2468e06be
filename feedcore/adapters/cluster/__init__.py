"""The cluster profile: CQL as the system of record, Redis for cache validation between
nodes, Kafka for fan-out.
"""
