"""The command `anchorlab evaluate` in a clone: python evaluate.py [settings]; --help shows its groups and settings."""

from anchorlab.cli.main import run

if __name__ == "__main__":
    run("evaluate")
