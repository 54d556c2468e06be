"""Redis: validation between nodes, and what is cheaper to fetch than to make again.

Nothing here is true: losing it costs loads, never an answer (docs/operations.md says which eviction
policies are safe).
"""
