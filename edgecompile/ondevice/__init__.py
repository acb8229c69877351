"""What runs on the device itself. `runner.py` is one file that is copied there: it must not import edgecompile."""
