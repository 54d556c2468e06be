"""Everything of feedcore that speaks gRPC: handlers, status, transports, interceptors, processes.

Installs as `feedcore_server`. Handlers do not know which transport carries them: a transport hands
raw request bytes and a `CallContext` to `dispatch` and sends what comes back.
"""
