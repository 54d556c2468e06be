"""Capacity planning: a workload and measured figures in; servers, bytes and rates out.

Pure arithmetic on floats, the same answer every time. The order of reading: `workload` (what comes
in), `follows` (how followers are spread), `figures` (what one core does), `capacity` (what that
asks for), `bottleneck` (what breaks first), `sweep` (cost against the push/pull threshold),
`document` (docs/capacity.md). Not for measuring anything: benchmarks/ does that.
"""
