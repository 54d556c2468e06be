"""Compiled modules, by room. feedcore.native is the only switch between them and their twins."""
