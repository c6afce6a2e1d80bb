"""A network as two files to hand over: its tensors (model.safetensors) and the settings that build it (model.json).

Only the files: what they are made of is `export.py`'s matter, what is built of them `trained.py`'s.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from anchorlab.errors import SettingError
from anchorlab.runs.files import write_whole
from anchorlab.runs.reading import check_model_json, read_json

NAME = "model"
SCHEMA_VERSION = 1
"""Of model.json. Raise it when a key changes its meaning; keys may be added without."""


def is_exported(path: Path) -> bool:
    """Whether `path` is an exported model: its folder, or its .safetensors file."""
    return path.suffix == ".safetensors" or (path / f"{NAME}.safetensors").is_file()


def write(folder: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> list[Path]:
    """model.safetensors and model.json; `settings` holds `config` and `about`, plain containers."""
    from safetensors.torch import save

    files = {
        f"{NAME}.safetensors": save({name: tensor.contiguous() for name, tensor in tensors.items()}),
        f"{NAME}.json": f"{json.dumps({'schema_version': SCHEMA_VERSION, **settings}, indent=2)}\n".encode(),
    }
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def read_settings(path: Path) -> tuple[Path, dict[str, Any]]:
    """The tensors' file of an exported model, and the content of the .json beside it.

    Raises:
        SettingError: a file that does not exist, is no JSON, or comes from a newer AnchorLab.
    """
    file = path / f"{NAME}.safetensors" if path.is_dir() else path
    beside = file.with_suffix(".json")
    try:
        content = read_json(beside)
        version = content["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingError(
            f"{beside} cannot be read ({error}): an exported model is two files, {file.name} and {beside.name}"
        ) from error
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise SettingError(
            f"{beside} has schema version {version}, this AnchorLab reads up to {SCHEMA_VERSION}: update it"
        )
    check_model_json(beside, content)
    return file, content


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file.

    Raises:
        SettingError: a file that does not exist or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise SettingError(f"run={file} is no file of tensors ({error}): export it again") from error
