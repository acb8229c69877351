"""Where bundles run: this machine today, boards by the same Protocol."""
