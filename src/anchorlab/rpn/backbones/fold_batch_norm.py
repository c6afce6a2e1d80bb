"""Folding of frozen batch norm: its scale and shift move into the convolution before it; trains no statistics.

Such a norm reads and writes every activation once more in each pass, for numbers that are known beforehand. Folded,
the convolution runs with its weight times the scale. What is trained, saved and loaded stay the convolution's own
weight and the norm's own tensors, under their own names.

C channels of a norm
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

SIDES = (64, 256)
"""Of the small image: Inception's stem takes no 64 pixels, and some attention takes multiples of 256 alone."""


class FoldedNorm(nn.BatchNorm2d):
    """A batch norm, with the same tensors, that leaves its scale and shift to the convolution before it in `run`.

    timm's norms end with a `drop` and an activation `act`; torchvision's do not.
    """

    taken_over = False

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__(norm.num_features, norm.eps)
        self._parameters.update(norm._parameters)
        self._buffers.update(norm._buffers)
        self.drop = norm._modules.get("drop") or nn.Identity()
        self.act = norm._modules.get("act") or nn.Identity()

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(input if self.taken_over else super().forward(input)))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The norm as y = scale * x + shift, each (C,)."""
        scale = self.weight * (cast(Tensor, self.running_var) + self.eps).rsqrt()
        return scale, self.bias - cast(Tensor, self.running_mean) * scale


def fold(body: nn.Module) -> dict[str, str]:
    """Turn each batch norm that reads a convolution's output into a FoldedNorm; convolution -> norm, by name.

    The body still computes the same; `run` does it in fewer passes. Which norm reads what is seen in a pass of one
    small image; a norm that reads a sum or a concatenation stays as it is. Statistics must be meant to stay fixed.

    Raises:
        ValueError: it can read none of the images that are tried.
    """
    pairs = _norms_after_convolutions(body)
    for name in pairs.values():
        parent, _, child = name.rpartition(".")
        norm = cast(nn.BatchNorm2d, body.get_submodule(name))
        setattr(body.get_submodule(parent), child, FoldedNorm(norm).train(norm.training))
    return pairs


def run(body: nn.Module, pairs: Mapping[str, str], images: Tensor) -> Any:
    """What `body(images)` gives, with the norms in these pairs, of `fold(body)`, done by their convolutions."""
    weights: dict[str, Tensor] = {}
    norms = {name: cast(FoldedNorm, body.get_submodule(norm)) for name, norm in pairs.items()}
    for name, norm in norms.items():
        scale, shift = norm.scale_and_shift()
        convolution = cast(nn.Conv2d, body.get_submodule(name))
        weights[f"{name}.weight"] = convolution.weight * scale[:, None, None, None]
        weights[f"{name}.bias"] = shift if convolution.bias is None else shift + convolution.bias * scale
    try:
        for norm in norms.values():
            norm.taken_over = True
        return functional_call(body, weights, (images,))
    finally:
        for norm in norms.values():
            norm.taken_over = False


@torch.no_grad()
def settle(body: nn.Module, pairs: Mapping[str, str]) -> None:
    """Move the norms of `fold(body)`, or those that there are, into the convolutions' own tensors, for proposing alone.

    The body computes the same up to rounding, in fewer passes; its state_dict is no longer that of its training.
    """
    if not any(isinstance(module, FoldedNorm) for module in body.modules()):
        pairs = fold(body)
    for name, other in pairs.items():
        norm, convolution = cast(FoldedNorm, body.get_submodule(other)), cast(nn.Conv2d, body.get_submodule(name))
        if norm.taken_over:
            continue
        scale, shift = norm.scale_and_shift()
        shift = shift if convolution.bias is None else shift + convolution.bias * scale
        convolution.weight = nn.Parameter(convolution.weight * scale[:, None, None, None], requires_grad=False)
        convolution.bias = nn.Parameter(shift.clone(), requires_grad=False)
        norm.taken_over = True


@torch.no_grad()
def _norms_after_convolutions(body: nn.Module) -> dict[str, str]:
    outputs: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept, so that no two have one id
    pairs: dict[str, str] = {}

    def produced(name: str) -> Any:
        return lambda module, inputs, output: outputs.update({id(output): (name, output)})

    def consumed(name: str) -> Any:
        return lambda module, inputs: pairs.update(
            {outputs[id(inputs[0])][0]: name} if id(inputs[0]) in outputs else {}
        )

    handles = []
    for name, module in body.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(produced(name)))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(consumed(name)))
    training = body.training
    body.eval()
    try:
        _read_any(body)
    finally:
        body.train(training)
        for handle in handles:
            handle.remove()
    return pairs


def _read_any(body: nn.Module) -> None:
    """Let a body read the first of the small images that it can."""
    reasons = []
    for side in SIDES:
        try:
            body(next(body.parameters()).new_zeros(1, 3, side, side))
            return
        except (RuntimeError, AssertionError) as error:
            reasons.append(str(error).partition("\n")[0] or type(error).__name__)
    raise ValueError(f"no image of {SIDES[-1]} x {SIDES[-1]} pixels can be read ({reasons[-1]}): choose another model.")
