"""A pretended device: computes on the CPU what a GPU would, and minds what a GPU minds, on a machine without one.

Its tensors say that they lie on another device than the CPU's ("meta", of which there is one everywhere, so that
autograd needs no driver), while real numbers stand behind them: a step goes its usual way, also where the way depends
on values, which torch's fake tensors cannot follow. An operator that mixes both devices is refused as CUDA refuses it,
and every place where the processor would have to wait for a GPU is noted.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

M = TypeVar("M", bound=nn.Module)

DEVICE = torch.device("meta")
SRC = str(Path(__file__).parents[1] / "src")

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.repeat_interleave.Tensor: "repeat_interleave",
    aten.equal.default: "equal",
    aten.bincount.default: "bincount",
}
"""What cannot go on before the device has answered: its result's size, or its value, is asked for."""
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor}
COPIES = {aten._to_copy.default, aten.copy_.default}
BOTH = COPIES | INDEXED  # take tensors of both devices, as on CUDA


class Pretended(Tensor):
    """A tensor of the pretended device; `inner` is what stands behind it."""

    inner: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> "Pretended":
        return torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=DEVICE,
            requires_grad=real.requires_grad,
        )

    def __init__(self, real: Tensor) -> None:
        self.inner = real.detach()

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with PretendedDevice():  # of which nobody asks what it has noted
            return func(*args, **(kwargs or {}))


class PretendedDevice(TorchDispatchMode):
    """Within it, tensors that are made on or moved to `DEVICE` lie there.

    Attributes:
        waits: (function of the package, what it waits for) -> how often.
        uploads: the same for copies to the device that wait until they are done.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.uploads: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
        here = [tensor for tensor in tensors if not isinstance(tensor, Pretended)]
        target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        self._check(func, there, here)
        self._note(func, args, kwargs, there, here, target)
        if target == DEVICE:
            kwargs["device"] = torch.device("cpu")
        out = func(*tree_map(_real, args), **tree_map(_real, kwargs))
        if func is aten.copy_.default or (func.__name__.split(".")[0].endswith("_") and isinstance(args[0], Tensor)):
            return args[0]
        on_device = target == DEVICE if target is not None else bool(there)
        return tree_map(_pretended, out) if on_device else out

    def _check(self, func: Any, there: list[Pretended], here: list[Tensor]) -> None:
        if there and func not in BOTH and any(tensor.dim() > 0 for tensor in here):
            shapes = [tuple(tensor.shape) for tensor in here]
            raise RuntimeError(f"{func} mixes devices: of the CPU are tensors of the shapes {shapes}, in {_place()}")

    def _note(
        self, func: Any, args: Any, kwargs: Any, there: list[Pretended], here: list[Tensor], target: torch.device | None
    ) -> None:
        if kwargs.get("non_blocking"):
            return
        if func is aten._to_copy.default and target is not None and (there or target == DEVICE):
            if target != DEVICE:
                self.waits[_place(), "copied to the CPU"] += 1
            elif here:
                self.uploads[_place(), "copied to the device"] += 1
        elif func is aten.copy_.default and there and here:
            if _is_here(args[0]):
                self.waits[_place(), "copied to the CPU"] += 1
            else:
                self.uploads[_place(), "copied to the device"] += 1
        elif there and func in WAITS:
            self.waits[_place(), WAITS[func]] += 1
        elif there and func in INDEXED:
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            if masks:
                self.waits[_place(), "boolean mask"] += 1
            if any(index is not None and _is_here(index) for index in args[1]):
                self.uploads[_place(), "index of the CPU"] += 1


def _is_here(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and not isinstance(tensor, Pretended)


def _real(value: Any) -> Any:
    return value.inner if isinstance(value, Pretended) else value


def _pretended(value: Any) -> Any:
    return Pretended(value) if _is_here(value) else value


def _place() -> str:
    """The innermost function of the package that is running: `rpn.samplers.draw`."""
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(SRC):
        frame = frame.f_back
    if frame is None:
        return "outside of the package"
    module = frame.f_globals["__name__"].removeprefix("anchorlab.")
    return f"{module}.{frame.f_code.co_qualname}" if sys.version_info >= (3, 11) else f"{module}.{frame.f_code.co_name}"


class _Made(TorchFunctionMode):
    """Numbers of Python's own become a tensor of the CPU and are copied, as for a GPU; "meta" has a short cut."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == DEVICE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        if func is Tensor.tolist and isinstance(args[0], Pretended):
            return args[0].cpu().tolist()  # torch has it for no tensors but its own
        return func(*args, **kwargs)


@contextmanager
def pretended_device() -> Iterator[PretendedDevice]:
    with PretendedDevice() as device, _Made():
        yield device


def moved(module: M) -> M:
    """The module with its parameters and buffers on the pretended device; in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(Pretended(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Pretended(buffer)
    return module
