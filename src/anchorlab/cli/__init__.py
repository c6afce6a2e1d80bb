"""Command-line support between the shell and a config: overrides, quoting, help, suggestions; imports no torch."""
