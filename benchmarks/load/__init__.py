"""The load generator: installed as feedcore_bench.

engine drives connections and takes the times, ceiling proves how much it can offer.
"""
