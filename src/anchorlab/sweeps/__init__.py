"""Many runs from one command line: every job is a process of its own; imports no torch."""
