"""Bulk loading: files of follows, mutes, posts and interactions into a server or a store.

`readers` turns lines into rows, `batches` rows into batches, `sinks` sends them, `loader` drives
and reports; `demo` makes a world of its own. Invariant: loading the same rows again changes
nothing, so an interrupted load is continued by starting it again. Not for the hot path: publishing
goes through PublishService.
"""
