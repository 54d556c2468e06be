"""The ports on ScyllaDB, Apache Cassandra or another store that speaks CQL."""
