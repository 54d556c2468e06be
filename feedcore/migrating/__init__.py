"""From the embedded store to the cluster, so that nothing visible changes.

Not for the schema of either: that is `adapters.cql.migrate` and `adapters.embedded.schema`.
"""
