"""The command `anchorlab propose` in a clone: python propose.py [settings]; --help shows its groups and settings."""

from anchorlab.cli.main import run

if __name__ == "__main__":
    run("propose")
