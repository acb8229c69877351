"""The rows of scripts/bench_compression.py, a module a subject."""
