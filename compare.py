"""The command `anchorlab compare` in a clone: python compare.py [settings]; --help shows its groups and settings."""

from anchorlab.cli.main import run

if __name__ == "__main__":
    run("compare")
