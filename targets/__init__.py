"""Target files, one TOML each."""
