"""Settings from YAML and the command line: composed, checked, identified; imports no torch."""
