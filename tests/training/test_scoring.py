"""A network's proposals on real images with crowds, scored as training does: the figures of pycocotools."""

import pytest
import torch
from lightning.pytorch import Trainer

from anchorlab.build import build, build_data, build_network
from anchorlab.cli.overrides import check_overrides
from anchorlab.training.module import build_module
from tests.by_pycocotools import Scored, by_pycocotools
from tests.training.test_experiments import CONFIGS


def test_figures_of_a_validation_equal_pycocotools(real_data):
    overrides = ["data=coco", f"data.root={real_data / 'coco128'}", "data.long=192", "data.workers=0", "augment=none"]
    fixed = ["trainer.precision=32", "trainer.channels_last=true", "trainer.keep_memory=false", "trainer.threads=1"]
    config = check_overrides("train", CONFIGS, [*overrides, *fixed, "data.val_batch_size=3", "data.val_fraction=0.3"])
    torch.manual_seed(0)
    module = build_module(config, build_network(config), build(config["trainer"]))
    data = build_data(config)
    trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    (logged,) = trainer.validate(module, datamodule=data, verbose=False)

    images = []
    for batch in data.val_dataloader():
        with torch.no_grad():
            proposals = module.network.propose(module(batch), batch.sizes)
        assert batch.targets is not None
        for row, target in enumerate(batch.targets):
            boxes = batch.to_original(row, proposals[row].boxes).numpy()
            truth = (field.numpy() for field in (target.boxes, target.area, target.ignore))
            images.append(Scored(boxes, proposals[row].scores.numpy(), *truth))
    assert sum(image.gt_ignore.sum() for image in images) > 0, "no crowd among the validation images"
    theirs = by_pycocotools(images, module.recall.budgets)
    assert theirs["recall_1000"] > 0.1
    assert {name: logged[f"val/{name}"] for name in theirs} == pytest.approx(theirs, abs=1e-9)
