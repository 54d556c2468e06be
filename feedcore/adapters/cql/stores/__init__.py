"""Ports over CQL tables: posts, feeds, graph, preferences, settings."""
