"""`python -m edgecompile`, the same as the console script."""

from edgecompile.start import main

if __name__ == "__main__":  # the worker process imports this module again under another name
    main()
