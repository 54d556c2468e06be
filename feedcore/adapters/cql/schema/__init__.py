"""The tables: migrations, values of which a cluster has one, a probe."""
