"""Public names of a package, each imported when it is first used: `import anchorlab.rpn` loads no torch.

A package's `__init__.pyi` lists its public names as ordinary imports. It is the only list: type checkers and editors
read it, and so does this module.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

SRC = Path(__file__).parent.parent


@cache
def homes(package: str) -> dict[str, str]:
    """Public name -> the module that defines it."""
    import ast  # not for `import anchorlab`

    stub = SRC.joinpath(*package.split("."), "__init__.pyi")
    imports = [node for node in ast.parse(stub.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


@cache
def public_names() -> dict[str, str]:
    """Full name of a class or function in its module -> its public name, of all packages that export some."""
    packages = [".".join(stub.parent.relative_to(SRC).parts) for stub in SRC.glob("anchorlab/*/__init__.pyi")]
    return {f"{home}.{name}": f"{package}.{name}" for package in packages for name, home in homes(package).items()}


def home_of(name: str) -> str:
    """The full name, in its module, of a public name; any other name as it is."""
    return _homes_of_all().get(name, name)


@cache
def _homes_of_all() -> dict[str, str]:
    return {public: home for home, public in public_names().items()}


def exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package with an `__init__.pyi` (PEP 562)."""

    def get(name: str) -> Any:
        if name not in homes(package):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes(package)[name]), name)

    return get, lambda: sorted(homes(package))
