"""VisDrone: a text file for each image, in a folder beside the images."""

from anchorlab.data.layouts.label_folders import recogniser
from anchorlab.data.visdrone import is_visdrone, visdrone_entries

FORMAT = "visdrone"
recognise = recogniser("VisDrone", FORMAT, visdrone_entries, is_visdrone)
