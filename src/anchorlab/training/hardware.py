"""Resolver of `auto` trainer settings, from CPU flags and GPU availability; never times anything at start-up."""

import ctypes
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anchorlab.cores import default_threads
from anchorlab.errors import SettingError
from anchorlab.signatures import shown

# glibc's mallopt parameters (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD_BYTES = 1 << 28


def decide(trainer: Mapping[str, Any], network: nn.Module, key: str = "trainer.accelerator") -> dict[str, Any]:
    """The trainer's settings with every "auto" replaced by what this machine and network call for.

    Precision: bf16 where a GPU or the processor has the instructions (AMX, AVX512-BF16), but 32 bits on the CPU
    for networks with depthwise convolutions, which bf16 makes slower there. Predictions for sampled anchors alone
    save a CPU most of its work; a GPU would wait for their indices.

    Args:
        key: of the setting that asks for a GPU or not.

    Raises:
        SettingError: a GPU, or several, where there is none or none is used.
    """
    decided = dict(trainer)
    _check_devices(trainer, key)
    on_gpu = trainer["accelerator"] != "cpu" and torch.cuda.is_available()
    if trainer["accelerator"] == "auto":
        decided["accelerator"] = "gpu" if on_gpu else "cpu"
    if trainer["precision"] == "auto":
        decided["precision"] = "bf16" if _bf16_pays(on_gpu, network) else 32
    if trainer["channels_last"] == "auto":
        decided["channels_last"] = True
    if trainer["sampled_only"] == "auto":
        decided["sampled_only"] = not on_gpu
    if trainer["keep_memory"] == "auto":
        decided["keep_memory"] = not on_gpu and platform.libc_ver()[0] == "glibc"
    if trainer["threads"] == "auto":
        decided["threads"] = default_threads(_processes_here(decided))
    return decided


def flush_denormals() -> None:
    """Take numbers below 1.2e-38 for zero, in this thread and all that are started later: call it first.

    A CPU computes with them in microcode, and the backward pass of a network that is sure of itself can be full of
    them: it was seen to take several times as long.
    """
    torch.set_flush_denormal(True)


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory in the process; whether it took all three settings.

    Without it, large freed blocks go back to the kernel and are faulted in again at every step, which costs
    CPU training 20-40 % of its time.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD_BYTES))
    taken = [mallopt(*setting) for setting in settings]
    return all(taken)


def _check_devices(trainer: Mapping[str, Any], key: str) -> None:
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if trainer["accelerator"] == "gpu" and not has_gpu:
        raise SettingError(f"{key}=gpu is not possible: torch finds no GPU here; {key}=cpu computes without")
    devices = trainer["devices"]
    if devices == 0:
        raise SettingError("trainer.devices=0 is not possible: give how many processes train, at least 1")
    on_cpu = trainer["accelerator"] == "cpu" or not has_gpu
    if on_cpu and (isinstance(devices, list) or devices == -1):
        raise SettingError(
            f"trainer.devices={shown(devices)} names GPUs, and this run is on the CPU: give how many processes train"
        )


def _bf16_pays(on_gpu: bool, network: nn.Module) -> bool:
    if on_gpu:
        return torch.cuda.is_bf16_supported()
    flags = _processor_flags()
    return bool(flags & {"amx_bf16", "avx512_bf16"}) and not _has_depthwise(network)


def _has_depthwise(network: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) and m.groups > 1 and m.groups == m.in_channels for m in network.modules())


def _processes_here(trainer: Mapping[str, Any]) -> int:
    """Training processes on this machine, which share its cores: one a device; -1 means all GPUs."""
    devices = trainer["devices"]
    if isinstance(devices, list):
        return len(devices)
    gpus = torch.cuda.device_count() if trainer["accelerator"] == "gpu" else 1
    return max(1, gpus if devices in (-1, "auto") else devices)


def _processor_flags() -> set[str]:
    """Linux's names of the processor's features; none elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
