"""Measurements that anyone can repeat; each module runs with `python -m benchmarks.NAME`."""
