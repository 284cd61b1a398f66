"""How is the work declared with each package, and a task enqueued?

A module for each, with `put(kind, number)`; BENCH_QUEUE names it.
"""
