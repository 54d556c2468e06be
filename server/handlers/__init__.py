"""proto <-> services, one module a service: thin, no rules of their own. Nothing here names a
transport."""
