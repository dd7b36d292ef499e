"""The formats of an export by name, for processes that load no code of them."""

from __future__ import annotations

TABLE = "csv"
FORMATS = {
    "nnunet": "nnU-Net v2, with the images",
    "png": "PNG, one file a class",
    "coco": "COCO",
    "nifti": "NIfTI, for imported volumes",
    "dicomseg": "DICOM Segmentation, for imported DICOM series; it names the patients",
    "yolo": "YOLO outlines",
    TABLE: "CSV table of the annotations",
}
# Of masks only: an archive with the images would soon be too large.
DOWNLOADS = {name: words for name, words in FORMATS.items() if name != "nnunet"}
