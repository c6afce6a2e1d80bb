"""A trained network from the files that hold one: a run's folder, a checkpoint, an exported model; nothing is trained.

Every one of them is built by `training.build`, from settings that lie beside the weights. Files may come from
anywhere: tensors are read without unpickling code, and settings may name classes of this package alone.
"""

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object
from torch import Tensor

from anchorlab.build import NETWORK_GROUPS, build_network, without_weights
from anchorlab.config.declared import targets
from anchorlab.config.moved import with_current_names
from anchorlab.data.headers import ImageRules
from anchorlab.errors import SettingError
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.proposals.tiered_nms import FittedTieredNMSSelector
from anchorlab.runs.reading import check_checkpoint
from anchorlab.runs.record import Run, read_run
from anchorlab.trained import package

PREFIX = "network."
"""Of the network's tensors in a checkpoint."""


@dataclass(frozen=True)
class Trained:
    """A network with its weights, in evaluation mode, on the CPU.

    config: the settings it was trained with, as its checkpoint has them; of an exported model those of the network and
    `data.short`, `data.long` and `data.pad_to`. file: where the weights come from. run: the folder it was trained in,
    where it still lies there. step, epoch: how far it was trained, in whole epochs; None where that is not known.
    """

    network: RegionProposalNetwork
    config: dict[str, Any]
    file: Path
    run: Run | None
    step: int | None
    epoch: int | None
    about: dict[str, Any]
    """Of an exported model, what its file says of data, metrics and the like (`card.facts`); else empty."""

    @property
    def metrics(self) -> dict[str, float]:
        """What the run itself found with this checkpoint; empty where it found nothing, or proposed in another way."""
        run = self.run
        if run is None or run.config.get("proposals") != self.config.get("proposals"):
            return {}
        return {"last": run.final, "best": run.best}.get(self.file.stem, {})

    @property
    def folder(self) -> Path:
        """Where things about it belong: the run's folder, else that of the file."""
        return self.file.parent if self.run is None else self.run.folder

    @property
    def name(self) -> str:
        """For tables: the folder, with the checkpoint where it is not the last."""
        stem = self.file.stem
        return self.folder.name if stem in ("last", package.NAME) else f"{self.folder.name} ({stem})"

    @property
    def resize(self) -> tuple[int | None, int | None]:
        """`data.short` and `data.long`: the size of the network's input (`data.resize.target_size`)."""
        return self.config["data"]["short"], self.config["data"]["long"]

    @property
    def pad_to(self) -> int:
        """The sides of the network's input are multiples of this, in training and afterwards."""
        return self.config["data"].get("pad_to", 1)

    @property
    def megapixels(self) -> float:
        """`data.megapixels`: larger images were refused."""
        return self.config["data"].get("megapixels", ImageRules.megapixels)


def load_asked_for(config: Mapping[str, Any], source: str | Path | None = None, finds_tiers: bool = False) -> Trained:
    """What a command's own settings name: run (or `source` of several), checkpoint, allow, and proposals if given.

    Args:
        finds_tiers: the command finds the thresholds of `proposals=fit` by itself.

    Raises:
        SettingError: as `load_trained`; proposals=fit without thresholds, where nothing finds them.
    """
    asked, run = config.get("proposals"), source or config["run"]
    trained = load_trained(run, config["checkpoint"], config["allow"], asked)
    selector = trained.network.selector
    if asked is None or finds_tiers or not isinstance(selector, FittedTieredNMSSelector) or selector.is_fitted:
        return trained
    raise SettingError(
        f"proposals=fit has no thresholds yet: evaluate.py run={run} proposals=fit finds them, and prints the "
        "proposals.thresholds=[...] to give here"
    )


def load_trained(
    source: str | Path,
    checkpoint: str = "last",
    allow: Sequence[str] = (),
    proposals: Mapping[str, Any] | None = None,
) -> Trained:
    """The network of a run's folder, a .ckpt file, or an exported model (its folder or its .safetensors file).

    Args:
        source: the file or folder.
        checkpoint: "last" or "best", of a run's folder.
        allow: packages besides anchorlab whose classes the settings may name; building one runs its code.
        proposals: a group of settings in place of the one it was trained with, which made no difference to the weights.

    Raises:
        SettingError: no such file, one that holds something else, or settings that name a class of others.
    """
    path = Path(source).expanduser()
    if package.is_exported(path):
        return _exported(path, allow, proposals)
    file = path / "checkpoints" / f"{checkpoint}.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise SettingError(f"run={source} {_what_is_missing(path, checkpoint)}")
    content = _read_checkpoint(file)
    config = _with_proposals(with_current_names(content["config"]), proposals)
    network = _build(config, file, allow)
    _fill(network, {name.removeprefix(PREFIX): tensor for name, tensor in content["state_dict"].items()}, file)
    epochs = content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    return Trained(network, config, file, _run_of(file), content["global_step"], epochs, {})


def find_trained(patterns: str | Sequence[str]) -> list[Path]:
    """Everything that `load_trained` takes in these files, folders (and the runs below them) and globs, each once.

    Raises:
        SettingError: for a pattern that names nothing.
    """
    found: dict[Path, Path] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        place = Path(pattern).expanduser()
        places = [place] if place.exists() else [Path(p) for p in sorted(glob.glob(str(place), recursive=True))]
        here = [source for place in places for source in _sources(place)]
        if not here:
            raise SettingError(
                f"run={pattern} names no trained network: give the folder of a run, a checkpoint (.ckpt) or an "
                "exported model, or a glob of such in quotes"
            )
        found |= {source.resolve(): source for source in here}
    return list(found.values())


def network_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The groups that make the network, complete with its weights: no others are loaded while it is built."""
    groups = {name: config[name] for name in NETWORK_GROUPS if name in config}
    return {**groups, "backbone": without_weights(groups["backbone"])}


def check_classes(settings: Any, file: Path, allow: Sequence[str] = ()) -> None:
    """Raise SettingError where settings from `file` name anything but classes of this package and of `allow`."""
    packages = {"anchorlab", *allow}
    for name in targets(settings):
        known = isinstance(name, str) and name.partition(".")[0] in packages
        thing = get_object(name) if known else None
        # A name may begin with ours and still lead elsewhere: a.module.it_imports.run
        if not isinstance(thing, type) or thing.__module__.partition(".")[0] not in packages:
            raise SettingError(
                f"{file} names {name}, which is no class of anchorlab, and building it would run its code: "
                f"if you trust the file, allow its package, allow=[{str(name).partition('.')[0]}]"
            )


def _exported(path: Path, allow: Sequence[str], proposals: Mapping[str, Any] | None) -> Trained:
    file, settings = package.read_settings(path)
    settings = with_current_names(settings)
    try:
        config, about = _with_proposals(settings["config"], proposals), settings["about"]
        if config["proposals"] != settings["config"]["proposals"]:
            about = {**about, "figures": {}}
        network = _build(config, file, allow)
    except (KeyError, TypeError) as error:
        raise SettingError(f"{file.with_suffix('.json')} describes no network ({error!r}): export it again") from error
    _fill(network, package.read_tensors(file), file)
    return Trained(network, config, file, None, about.get("step"), about.get("epoch"), about)


def _with_proposals(config: Mapping[str, Any], proposals: Mapping[str, Any] | None) -> dict[str, Any]:
    return {**config, **({} if proposals is None else {"proposals": dict(proposals)})}


def _build(config: Mapping[str, Any], file: Path, allow: Sequence[str]) -> RegionProposalNetwork:
    settings = network_settings(config)
    check_classes(settings, file, allow)
    return build_network(settings).eval()


def _fill(network: RegionProposalNetwork, state: Mapping[str, Tensor], file: Path) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        wrong = str(error).splitlines()[1:2] or [str(error)]
        raise SettingError(f"{file} does not fit the network its settings describe: {wrong[0].strip()}") from error


def _read_checkpoint(file: Path) -> dict[str, Any]:
    try:
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # unpickling arbitrary bytes may raise anything
        raise SettingError(f"run={file} is no checkpoint: give a .ckpt that train.py wrote") from error
    check_checkpoint(file, content)
    return content


def _run_of(file: Path) -> Run | None:
    try:
        return read_run(file.parent.parent) if file.parent.name == "checkpoints" else None
    except ValueError:
        return None


def _what_is_missing(path: Path, checkpoint: str) -> str:
    if not path.exists():
        return "does not exist: give the folder of a run, a checkpoint (.ckpt) or an exported model"
    if (path / "run.json").is_file():
        return f"has no checkpoints/{checkpoint}.ckpt: it broke off before its first one"
    return "is no run's folder: it holds neither run.json nor an exported model"


def _sources(place: Path) -> Iterator[Path]:
    if place.is_file() or package.is_exported(place) or (place / "run.json").is_file():
        yield place
        return
    for folder, inner, files in os.walk(place):
        inner.sort()
        if "run.json" in files or package.is_exported(Path(folder)):
            yield Path(folder)
            inner.clear()  # a run's folder is one source: no search inside it
