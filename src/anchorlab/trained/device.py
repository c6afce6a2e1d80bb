"""Device of a trained network: the one it was trained on where this machine has it, else what suits this one."""

from collections.abc import Mapping
from typing import Any

import torch

from anchorlab.build import build
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.training.hardware import decide
from anchorlab.training.trainer import TrainerSettings

DECIDED = ("accelerator", "precision", "channels_last", "keep_memory", "threads")


def settings_for(
    trained_with: Mapping[str, Any] | None,
    network: RegionProposalNetwork,
    device: str | None = None,
    precision: int | str | None = None,
    limit_batches: int | None = None,
) -> TrainerSettings:
    """Device, precision, threads and memory layout for one process that trains nothing.

    Args:
        trained_with: the group `trainer` of the run, taken over where its device is to be had here and is the one
            wanted: metrics are then the run's own to the last bit. None: decided for this machine.
        device, precision: what is wanted instead; None: as above.
        limit_batches: batches after which a validation stops; None: none.
    """
    own = dict(trained_with or {})
    there = own.get("accelerator") != "gpu" or torch.cuda.is_available()
    if own and there and device in (None, own["accelerator"]):
        chosen: dict[str, Any] = {key: own[key] for key in DECIDED}
    else:
        chosen = {**dict.fromkeys(DECIDED, "auto"), "accelerator": device or "auto"}
    if precision is not None:
        chosen["precision"] = precision
    chosen |= {"_target_": "anchorlab.training.TrainerSettings", "devices": 1, "sampled_only": False}
    return build(decide({**chosen, "limit_val_batches": limit_batches}, network, key="device"), "trainer")


def torch_device(settings: TrainerSettings) -> torch.device:
    return torch.device("cuda" if settings.accelerator == "gpu" else "cpu")


def autocast(settings: TrainerSettings) -> torch.autocast:
    """The precision of `settings` for a forward pass outside of Lightning."""
    kind = {32: torch.float32, 16: torch.float16, "bf16": torch.bfloat16}[settings.precision]
    enabled = kind != torch.float32
    return torch.autocast(torch_device(settings).type, dtype=kind if enabled else torch.bfloat16, enabled=enabled)
