"""What carries calls: one module a transport. Each feeds `feedcore_server.dispatch` and nothing
else."""
