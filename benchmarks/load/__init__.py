"""Load benchmark: worlds, people and scenarios against a real server, every answer checked."""
