"""Helpers of the tests: real server processes, and an oracle written apart from the engine."""
