"""Deferred imports: modules that libraries import for a name or two are run when something in them is used.

`import lightning` runs the whole of torchmetrics, which imports scipy, matplotlib and every metric there is, and
torch's compiler, which imports sympy: three of the seven seconds that the imports of a training take, for two base
classes and an isinstance. A program that calls `defer` gives those names without running the rest, and the whole module
as soon as anything else in it, or a module below it, is asked for: nobody sees a difference but in time. `import
anchorlab` defers nothing: what else runs in a notebook or in a program of someone else's is not ours to arrange.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import Any

Names = Mapping[str, Callable[[], Any]]


def defer() -> None:
    """Defer, in this process, those of `DEFERRED` that are not imported yet."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the deferred modules, and sees to it that a module below one that waits runs that one first."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in DEFERRED:
            spec = PathFinder.find_spec(fullname, path)
            if spec is not None and spec.loader is not None:
                spec.loader = _Later(spec.loader, DEFERRED[fullname])
            return spec
        package = fullname.rpartition(".")[0]
        above = sys.modules.get(package)
        if isinstance(above, _Deferred) and not above.__dict__.get(GIVING):
            above.run()
            if fullname in sys.modules:
                return ModuleSpec(fullname, _Loaded(sys.modules[fullname]))
        return None


class _Later(Loader):
    """Makes a module that waits, in place of one that has run."""

    def __init__(self, loader: Loader, names: Names) -> None:
        self.loader = loader
        self.names = names

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _Deferred


class _Loaded(Loader):
    """Gives a module that running the package above it has imported in the meantime."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class _Deferred(ModuleType):
    """A module that waits: gives its stand-ins, and runs when another of its names is asked for."""

    def __getattr__(self, name: str) -> Any:
        later = self.__dict__["__spec__"].loader
        if isinstance(later, _Later) and name in later.names:
            with _LOCK:
                self.__dict__[GIVING] = self.__dict__.get(GIVING, 0) + 1  # the modules below that have it do without it
                try:
                    return later.names[name]()
                finally:
                    self.__dict__[GIVING] -= 1
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)  # what Python and its debuggers ask of any module
        self.run()
        return getattr(self, name)

    def run(self) -> None:
        """Run the module, once, whichever thread asks first."""
        with _LOCK:
            if type(self) is not _Deferred:
                return
            spec = self.__dict__["__spec__"]
            self.__class__ = ModuleType  # pyright: ignore[reportAttributeAccessIssue]
            spec.loader = spec.loader.loader
            self.__dict__["__loader__"] = spec.loader
            spec.loader.exec_module(self)


_LOCK = RLock()
GIVING = "__giving_a_name__"


def _waits(name: str) -> bool:
    return isinstance(sys.modules.get(name), _Deferred)


def _of(*modules: str, name: str) -> Callable[[], Any]:
    """The name itself, of the last of these modules below a package that waits, imported in this order."""
    return lambda: getattr([import_module(module) for module in modules][-1], name)


def _function(module: str, name: str) -> Callable[[], Any]:
    """A function that takes the module's own when it is called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    return lambda: call


class _CompiledModule(type):
    """Whether an object is what `torch.compile` makes of a module: nothing is while no compiler has run."""

    def __instancecheck__(cls, instance: object) -> bool:
        return not _waits("torch._dynamo") and isinstance(instance, sys.modules["torch._dynamo"].OptimizedModule)


class OptimizedModule(metaclass=_CompiledModule):
    """Stands for `torch._dynamo.OptimizedModule`, of which Lightning asks whether a model is one."""


def _not_compiled(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """`torch._dynamo.disable`, by which torch keeps its compiler out of an optimizer: it looks when it is called."""
    disabled: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*inner: Any, **named: Any) -> Any:
        if _waits("torch._dynamo"):
            return function(*inner, **named)
        if not disabled:
            disabled.append(sys.modules["torch._dynamo"].disable(function, *args, **kwargs))
        return disabled[0](*inner, **named)

    return call


_PLOTS = "torchmetrics.utilities.plot"

DEFERRED: dict[str, Names] = {
    # Asked by every optimizer and every step of one; there is no graph to break while no compiler has run.
    "torch._dynamo": {
        "OptimizedModule": lambda: OptimizedModule,
        "disable": lambda: _not_compiled,
        "graph_break": lambda: lambda msg="": None,
    },
    "torch._dynamo.utils": {"is_compile_supported": _function("torch._dynamo.utils", "is_compile_supported")},
    "torch.utils.flop_counter": {"FlopCounterMode": _function("torch.utils.flop_counter", "FlopCounterMode")},
    "torchmetrics": {
        "Metric": _of("torchmetrics.utilities", "torchmetrics.metric", name="Metric"),
        "MetricCollection": _of("torchmetrics.utilities", "torchmetrics.collections", name="MetricCollection"),
        "__version__": _of("torchmetrics.__about__", name="__version__"),
        "_logger": lambda: logging.getLogger("torchmetrics"),
        "utilities": lambda: import_module("torchmetrics.utilities"),
    },
    # What torchmetrics itself has in their place where there is no matplotlib.
    _PLOTS: {
        "_AX_TYPE": lambda: object,
        "_PLOT_OUT_TYPE": lambda: tuple[object, object],
        "plot_single_or_multi_val": _function(_PLOTS, "plot_single_or_multi_val"),
    },
}
"""Of each deferred module the names that are given before it has run."""
