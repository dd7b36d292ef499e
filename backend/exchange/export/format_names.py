"""The formats of an export by name, for processes that load no code of them."""

from __future__ import annotations

TABLE = "csv"
FORMATS = {
    "nnunet": "nnU-Net v2, with the images",
    "png": "PNG, one file a class",
    "coco": "COCO",
    "nifti": "NIfTI, for imported volumes",
    "dicomseg": "DICOM Segmentation, for imported DICOM series",
    "yolo": "YOLO outlines",
    TABLE: "CSV table of the annotations",
}
# For the page. An archive with images would soon be too large, and a DICOM Segmentation repeats the
# patient of its source, whom people at the page know by a pseudonym only.
DOWNLOADS = {name: words for name, words in FORMATS.items() if name not in {"nnunet", "dicomseg"}}
