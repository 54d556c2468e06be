"""The processes of `feedcore serve`: a supervisor with its acceptor, and what runs in its children.

    supervisor, children, acceptor    starts and restarts, hands connections over
    child                             a child's side of the pipe
    worker, serving                   API workers
    fanout                            the fan-out process
    exporter                          metrics for scrapers
    readiness, open_files             what a process looks after in itself
    collaborators                     `feedcore serve-collaborators`, which has no children

Not for what a call does: that is handlers, behind a transport.
"""
