"""KITTI: a text file for each image, in a folder beside the images."""

from anchorlab.data.kitti import is_kitti, kitti_entries
from anchorlab.data.layouts.label_folders import recogniser

FORMAT = "kitti"
recognise = recogniser("KITTI", FORMAT, kitti_entries, is_kitti)
