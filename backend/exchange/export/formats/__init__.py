"""The formats of an export, each in a file of its own; a new one is added here."""

from collections.abc import Callable

from backend.exchange.export.formats.coco import Coco
from backend.exchange.export.formats.dicomseg import DicomSeg
from backend.exchange.export.formats.format import Context, Format, Note, Written
from backend.exchange.export.formats.nifti import Nifti
from backend.exchange.export.formats.nnunet import NnUnet
from backend.exchange.export.formats.png import Png
from backend.exchange.export.formats.yolo import Yolo

REGISTRY: dict[str, Callable[[Context], Format]] = {
    "nnunet": NnUnet,
    "nifti": Nifti,
    "dicomseg": DicomSeg,
    "coco": Coco,
    "yolo": Yolo,
    "png": Png,
}

__all__ = ["REGISTRY", "Context", "Format", "Note", "Written"]
