"""Public names: each leads to the class of its module, and none is loaded before it is used."""

import subprocess
import sys
from importlib import import_module

import pytest
from hydra.utils import get_object

from anchorlab.exports import homes, public_names

PACKAGES = ("anchorlab", "anchorlab.rpn", "anchorlab.data", "anchorlab.metrics", "anchorlab.training")


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_those_of_their_modules(package):
    exported = import_module(package)
    assert dir(exported) == sorted(homes(package))
    for name, home in homes(package).items():
        assert getattr(exported, name) is getattr(import_module(home), name)
        assert getattr(exported, name).__module__ == home
        assert get_object(f"{package}.{name}") is getattr(exported, name)


def test_home_and_public_name_belong_together():
    assert public_names()["anchorlab.rpn.assigners.atss.ATSSAssigner"] == "anchorlab.rpn.ATSSAssigner"
    assert public_names()["anchorlab.training.loggers.csv.CSVLogger"] == "anchorlab.training.CSVLogger"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute"):
        import_module("anchorlab.rpn").ATTSAssigner  # noqa: B018


def test_packages_load_no_torch():
    code = f"import sys, {', '.join(PACKAGES)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
