"""feedcore: the serving core behind a social product's home feed.

The engine. It knows nothing of gRPC servers: `feedcore_server` (folder `server/`) puts it on the
wire.
"""

__version__ = "0.2.0"
