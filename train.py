"""The command `anchorlab train` in a clone: python train.py [settings]; --help shows its groups and settings."""

from anchorlab.cli.main import run

if __name__ == "__main__":
    run("train")
