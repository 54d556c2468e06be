"""Interactions and what is counted from them: engagement, affinity, trending, impressions."""
