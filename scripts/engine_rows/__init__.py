"""What scripts/bench_backends.py is made of."""
