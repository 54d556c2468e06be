"""The binding of libnghttp2: sessions and streams of the gRPC transport."""
