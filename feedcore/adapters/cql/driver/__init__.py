"""The session over CQL and its two drivers; ids, batches, timestamps of writes."""
