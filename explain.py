"""The command `anchorlab explain` in a clone: python explain.py [settings]; --help shows its groups and settings."""

from anchorlab.cli.main import run

if __name__ == "__main__":
    run("explain")
