"""DOTA: a text file for each image, in a folder beside the images."""

from anchorlab.data.dota import dota_entries, is_dota
from anchorlab.data.layouts.label_folders import recogniser

FORMAT = "dota"
recognise = recogniser("DOTA", FORMAT, dota_entries, is_dota)
