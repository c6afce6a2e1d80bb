"""Commands: one file per root script, named like it, that holds what the script does."""
