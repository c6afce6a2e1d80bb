"""The command `anchorlab export` in a clone: python export.py [settings]; --help shows its groups and settings."""

from anchorlab.cli.main import run

if __name__ == "__main__":
    run("export")
