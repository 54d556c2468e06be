"""From the embedded store to the cluster, so that nothing visible changes.

`run` begins, copies and compares; `tables` says what each row becomes, `copy` writes it.
Not for the schema of either: that is `adapters.cql.migrate` and `adapters.embedded.schema`.
"""
