"""What each root script does; one file a script, named like it."""
