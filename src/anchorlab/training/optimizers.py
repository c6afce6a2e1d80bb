"""The config group `optimizer`: torch's optimizers, with signatures that say what their settings may hold.

An optimizer that is not here is named as torch has it, `optimizer._target_=torch.optim.RMSprop`, and checks itself.
"""

from collections.abc import Iterable
from typing import Any

import torch

from anchorlab.signatures import NotNegative, Positive, Share, checked


@checked
def adamw(parameters: Iterable[Any], lr: Positive, weight_decay: NotNegative) -> torch.optim.AdamW:
    """Loshchilov and Hutter 2019; betas and epsilon are torch's."""
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)


@checked
def sgd(
    parameters: Iterable[Any], lr: Positive, momentum: Share, weight_decay: NotNegative, nesterov: bool
) -> torch.optim.SGD:
    """Stochastic gradient descent, with weight decay added to the gradient."""
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
