"""Benchmarks: results are checked in every test run, times on demand. Not installed."""
