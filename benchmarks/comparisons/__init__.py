"""The cases of ``benchmarks/bench.py``: each times forgetkit beside a reference that does the same work."""
