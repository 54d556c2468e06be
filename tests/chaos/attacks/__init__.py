"""Attacks on the native transport: an attacker, the server and an honest caller, each a process or
thread of its own; what is measured is the memory, the honest caller's latency, and the cut."""
