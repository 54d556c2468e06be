"""Just enough of each engine's protocol to ask whether it really answers.

Blocking sockets with a timeout. Not for clients: the engine's adapters use real libraries.
"""
