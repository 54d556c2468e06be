"""Entries, id sets, cursors, protobuf and CQL bytes."""
