"""The command `anchorlab study` in a clone: python study.py [settings]; --help shows its groups and settings."""

from anchorlab.cli.main import run

if __name__ == "__main__":
    run("study")
