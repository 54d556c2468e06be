"""The embedded engine: all ports on local disk, shared by the processes of one machine.

The system of record is one SQLite file; stored feeds are sorted runs beside it; engagement is a
shared memory map.
"""

from feedcore.adapters.embedded.store import EmbeddedStore

__all__ = ["EmbeddedStore"]
