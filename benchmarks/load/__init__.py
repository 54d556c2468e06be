"""The load benchmark: installed as feedcore_bench.

engine drives connections and takes the times, ceiling proves how much it can offer; world, people
and checks are what is asked and judged; scenarios run it against a real server; goals and report
say what came of it.
"""
