"""What a build does, a file a stage. Those that a recipe can name are listed in registry.py."""
