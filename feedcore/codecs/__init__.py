"""Bytes of stores and wires, written and read: protobuf, cursors, run files, shared maps, CQL
rows.
"""
