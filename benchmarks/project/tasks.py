"""Declare the tasks with the package that the environment names; see `queues/`."""

import importlib
import os

queue = importlib.import_module(
    f"benchmarks.project.queues.{os.environ['BENCH_QUEUE']}"
)
