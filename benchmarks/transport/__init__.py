"""The transport compared with others: same bytes, one core for the server, the other for the
load generator. `python -m benchmarks.transport --help`; `make bench-transport` is the full run.

    matrix.py    what is measured: rows, sizes, how long it takes
    servers.py   who is measured: how each server is started, found, verified, ended
    serve.py     ours, as a process; grpc_aio.py: the bare grpc.aio peer
    peers/       tonic, grpc-go, gRPC C++: sources; build.py builds them below build/peers
    load.py      h2load: one cell of the matrix, checked and timed, with the CPU of both sides
    idle.py      resident memory of idle connections
    spread.py    how evenly connections are spread over workers
    goals.py     what was wanted and whether it was met, from the results alone
    report.py    Markdown and JSON; chart.py: the picture

Not for the engine's own costs: those are in benchmarks/micro.
"""
