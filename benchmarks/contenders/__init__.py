"""One module per contender: how that client does each work, and nothing about how it is timed.

Each runs as a process of its own, in a virtual environment of its own (see `benchmarks/worker.py`).
"""
