"""The small training of the commands' tests, which tests of trained networks use too."""

from tests.commands.conftest import run, synthetic_root

__all__ = ["run", "synthetic_root"]
