"""Settings of other projects under the names that people type them, and what they are here: docs/coming-from.md.

The sentence for an unknown key takes its hint from here, before it looks for a similar name.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Here(NamedTuple):
    """What a setting of another project is here: overrides that work as they stand, and what differs.

    Attributes:
        words: as typed; a value in them is an example.
    """

    words: str
    note: str = ""

    def __str__(self) -> str:
        return self.words + (f" ({self.note})" if self.note else "")


TEMPLATE = "Lightning and lightning-hydra-template"
DETECTRON2 = "Detectron2"
ULTRALYTICS = "Ultralytics"

ELSEWHERE: dict[str, dict[str, Here]] = {
    TEMPLATE: {
        "trainer.fast_dev_run": Here("debug=one_step"),
        "trainer.overfit_batches": Here("debug=overfit"),
        "trainer.limit_train_batches": Here("data.limit_train=100", "images, not batches"),
        "trainer.max_epochs": Here("trainer.epochs=20"),
        "trainer.min_epochs": Here("trainer.epochs=20", "a run has as many, unless callbacks=early_stopping ends it"),
        "trainer.accumulate_grad_batches": Here("trainer.accumulate=2"),
        "trainer.gradient_clip_val": Here("trainer.gradient_clip=10"),
        "trainer.check_val_every_n_epoch": Here("trainer.val_every=2"),
        "trainer.log_every_n_steps": Here("trainer.log_every=10"),
        "trainer.default_root_dir": Here("hydra.run.dir=outputs/mine"),
        "trainer.deterministic": Here("seed=0", "the same seed gives the same run already"),
        "trainer.enable_progress_bar": Here("callbacks=none"),
        "ckpt_path": Here(
            "resume=outputs/mine", "a run's folder; start=<checkpoint> begins a new run with its weights"
        ),
        "hparams_search": Here("sweep=tpe", "with -m"),
        "optimized_metric": Here("sweep.monitor=AR_100"),
        "paths.data_dir": Here("data.root=photos"),
        "paths.root_dir": Here("data.root=photos"),
        "paths.output_dir": Here("hydra.run.dir=outputs/mine"),
        "paths.log_dir": Here("hydra.run.dir=outputs/mine"),
        "data.data_dir": Here("data.root=photos"),
        "data.num_workers": Here("data.workers=4"),
        "data.train_val_test_split": Here("data.val_fraction=0.2"),
        "datamodule": Here("data=coco data.root=photos"),
        "datamodule.data_dir": Here("data.root=photos"),
        "datamodule.batch_size": Here("data.batch_size=8"),
        "datamodule.num_workers": Here("data.workers=4"),
        "model": Here("backbone=resnet18_fpn", "and anchor=, head=, loss=: each part of the network is a group"),
        "model.optimizer.lr": Here("optimizer.lr=0.01"),
        "model.optimizer.weight_decay": Here("optimizer.weight_decay=0.0001"),
        "model.scheduler": Here("scheduler=one_cycle"),
        "callbacks.early_stopping.patience": Here("callbacks=early_stopping callbacks.early_stopping.patience=5"),
        "callbacks.model_checkpoint.monitor": Here(
            "trainer.checkpoint_every=10", "minutes; the best and the last are kept"
        ),
        "logger.wandb.project": Here("logger=wandb logger.project=mine"),
        "tags": Here("logger=wandb logger.tags=[mine]"),
        "task_name": Here("logger=wandb logger.name=mine"),
    },
    DETECTRON2: {
        "SOLVER.BASE_LR": Here("optimizer.lr=0.01"),
        "SOLVER.IMS_PER_BATCH": Here("data.batch_size=16"),
        "SOLVER.MAX_ITER": Here("trainer.epochs=12", "epochs; trainer.max_steps=90000 ends a run earlier"),
        "SOLVER.STEPS": Here("scheduler=steps scheduler.milestones=[0.667,0.889]", "shares of the run, not steps"),
        "SOLVER.GAMMA": Here("scheduler=steps scheduler.gamma=0.1"),
        "SOLVER.WARMUP_ITERS": Here("scheduler.warmup=0.01", "a share of the run, not steps"),
        "SOLVER.WEIGHT_DECAY": Here("optimizer.weight_decay=0.0001"),
        "SOLVER.MOMENTUM": Here("optimizer=sgd optimizer.momentum=0.9"),
        "SOLVER.CHECKPOINT_PERIOD": Here("trainer.checkpoint_every=10", "minutes"),
        "SOLVER.AMP.ENABLED": Here("trainer.precision=bf16"),
        "MODEL.WEIGHTS": Here("start=outputs/mine", "evaluate.py: run=<folder or checkpoint>"),
        "MODEL.DEVICE": Here("trainer.accelerator=cpu", "evaluate.py: device=cpu"),
        "MODEL.BACKBONE.NAME": Here("backbone=resnet50_fpn"),
        "MODEL.ANCHOR_GENERATOR.SIZES": Here("anchor.sizes=[32,64,128,256,512]", "roots of areas, as there"),
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": Here("anchor.ratios=[0.5,1,2]", "height / width, as there"),
        "MODEL.ANCHOR_GENERATOR.OFFSET": Here("anchor.offset=0.5"),
        "MODEL.RPN.IOU_THRESHOLDS": Here(
            "assigner=max_iou assigner.background_iou=0.3 assigner.foreground_iou=0.7", "one key for each"
        ),
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": Here("sampler=balanced sampler.num=256"),
        "MODEL.RPN.POSITIVE_FRACTION": Here("sampler=balanced sampler.positive_fraction=0.5"),
        "MODEL.RPN.NMS_THRESH": Here("proposals.nms_iou=0.7"),
        "MODEL.RPN.PRE_NMS_TOPK_TEST": Here("proposals.pre_nms_top_n=1000"),
        "MODEL.RPN.POST_NMS_TOPK_TEST": Here("proposals.post_nms_top_n=1000"),
        "MODEL.RPN.BBOX_REG_WEIGHTS": Here("coder=delta coder.weights=[1,1,1,1]"),
        "MODEL.RPN.BBOX_REG_LOSS_TYPE": Here("loss=giou"),
        "INPUT.MIN_SIZE_TRAIN": Here("data.short=800", "one size"),
        "INPUT.MIN_SIZE_TEST": Here("data.short=800"),
        "INPUT.MAX_SIZE_TRAIN": Here("data.long=1333"),
        "INPUT.MAX_SIZE_TEST": Here("data.long=1333"),
        "INPUT.RANDOM_FLIP": Here("augment=flip"),
        "DATASETS.TRAIN": Here("data.root=photos", "a folder of any layout; nothing is registered"),
        "DATASETS.TEST": Here("data.validate_on=val"),
        "DATALOADER.NUM_WORKERS": Here("data.workers=4"),
        "TEST.EVAL_PERIOD": Here("trainer.val_every=1", "epochs"),
        "OUTPUT_DIR": Here("hydra.run.dir=outputs/mine"),
        "SEED": Here("seed=0"),
    },
    ULTRALYTICS: {
        "imgsz": Here("data.long=640"),
        "batch": Here("data.batch_size=16"),
        "epochs": Here("trainer.epochs=100"),
        "workers": Here("data.workers=8"),
        "device": Here("trainer.devices=1", "trainer.accelerator=cpu for the CPU"),
        "lr0": Here("optimizer.lr=0.01"),
        "cos_lr": Here("scheduler=one_cycle"),
        "warmup_epochs": Here("scheduler.warmup=0.03", "a share of the run"),
        "momentum": Here("optimizer=sgd optimizer.momentum=0.937"),
        "weight_decay": Here("optimizer.weight_decay=0.0005"),
        "patience": Here("callbacks=early_stopping callbacks.early_stopping.patience=100"),
        "amp": Here("trainer.precision=bf16"),
        "pretrained": Here("start=outputs/mine"),
        "project": Here("hydra.run.dir=outputs/mine", "logger.project=<name> for W&B"),
        "name": Here("hydra.run.dir=outputs/mine", "logger.name=<name> for W&B"),
        "exist_ok": Here("overwrite=true"),
        "fraction": Here("data.limit_train=100", "images, not a share"),
        "cache": Here("data.cache=disk"),
        "single_cls": Here("data.categories=[person]", "a network of proposals has no classes; this picks some"),
        "iou": Here("proposals.nms_iou=0.7"),
        "conf": Here("proposals.score_threshold=0.05"),
        "max_det": Here("proposals.post_nms_top_n=300"),
        "mosaic": Here("augment.mosaic=0.5"),
        "fliplr": Here("augment.flip=0.5"),
        "scale": Here("anchor.scale=8", "of anchors; of images augment.scale=[0.5,1.5]"),
        "hsv_h": Here("augment.colour=0.5"),
        "val": Here("data.validate_on=val"),
    },
}

START, END = "<!-- table -->", "<!-- end of the table -->"


def here(key: str) -> Here | None:
    """What a setting of another project is called here; None for a name that none of them has."""
    return next((names[key] for names in ELSEWHERE.values() if key in names), None)


def as_markdown() -> str:
    """The tables of docs/coming-from.md: `python -m anchorlab.config.elsewhere` prints them."""
    return "\n\n".join(_table(project, names.items()) for project, names in ELSEWHERE.items())


def _table(project: str, rows: Iterable[tuple[str, Here]]) -> str:
    lines = [f"| `{name}` | `{what.words}` | {what.note} |" for name, what in rows]
    return "\n".join([f"## {project}", "", "| there | here | |", "| --- | --- | --- |", *lines])


if __name__ == "__main__":
    print(as_markdown())
