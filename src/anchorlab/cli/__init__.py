"""What stands between the shell and a config."""
