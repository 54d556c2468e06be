"""The load generator's compiled modules: calls, connections, statistics, a scan of pages."""
