"""Hostile bytes: targets, a corpus that every test run replays, and the coverage-guided run."""
