"""Draws pictures.jpg: of each data set three held-out images with what `recommended` finds in 20 proposals.

python experiments/many-sets/pictures.py <folder of the runs>

Data sets without a run in that folder are left out. The images are the first that evaluate.py draws, whatever they
show.
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from run import ROOT, SETS, Trial, call

from anchorlab.plots.boxes import proposals_figure, save
from anchorlab.plots.scene import Scene
from anchorlab.runs.gallery import GalleryImage, read_gallery

IMAGES, TOP = 3, 20


def main(runs: Path) -> None:
    trials = [Trial(data, "recommended", 0, "held out") for data in SETS]
    scenes = [scene for trial in trials if trial.folder(runs).exists() for scene in scenes_of(trial, runs)]
    save(proposals_figure(scenes, TOP, columns=IMAGES), Path(__file__).parent / "pictures.jpg")


def scenes_of(trial: Trial, runs: Path) -> list[Scene]:
    drawn = trial.folder(runs, "drawn")
    words = [f"run={trial.folder(runs)}", f"hydra.run.dir={drawn}", "overwrite=true", f"pictures={IMAGES}", "outcome=0"]
    call([sys.executable, str(ROOT / "evaluate.py"), *words], Path(f"{drawn}.log"))
    return [
        Scene(pixels(image), image.boxes, image.proposals, image.scores, f"{trial.data} {image.image_id}")
        for image in read_gallery(drawn)
    ]


def pixels(image: GalleryImage) -> np.ndarray:
    """At the size that the boxes are of."""
    height, width = image.size
    return np.asarray(Image.open(io.BytesIO(image.image)).resize((width, height)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
