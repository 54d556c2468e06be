"""The interop cases of gRPC, run by clients of four other stacks against each transport."""
