"""A tiny network in two ONNX files, with the interface of Segment Anything's export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, CELL = 32, 4  # of the encoder's image, and of a cell of its embedding
REACH = 6.0  # pixels from the first point within which the decoder sees the structure
DECODER_INPUTS: dict[str, Sequence[int | str]] = {
    "image_embeddings": [1, 3, SIDE // CELL, SIDE // CELL],
    "point_coords": [1, "points", 2],
    "point_labels": [1, "points"],
    "mask_input": [1, 1, SIDE, SIDE],
    "has_mask_input": [1],
    "orig_im_size": [2],
}


def write(folder: Path) -> Path:
    """Write both files; return the folder."""
    encoder(folder / "tiny_encoder.onnx", [1, 3, SIDE, SIDE])
    decoder(folder / "tiny_decoder.onnx")
    return folder


def encoder(path: Path, shape: Sequence[int | str]) -> None:
    """Write an encoder whose embedding is the mean of each cell."""
    pool = helper.make_node(
        "AveragePool", ["x"], ["y"], kernel_shape=[CELL] * 2, strides=[CELL] * 2
    )
    _save(path, [pool], {"x": shape}, ["y"], [])


def raw_encoder(path: Path) -> None:
    """Write an encoder that takes an image (height, width, 3) of values up to 255, padded to it."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[2, 0, 1]),
        helper.make_node("Unsqueeze", ["t", "first"], ["u"]),
        helper.make_node("ReduceMean", ["u", "sides"], ["m"], keepdims=1),
        helper.make_node("Tile", ["m", "times"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([0]), "first"),
        numpy_helper.from_array(np.array([2, 3]), "sides"),
        numpy_helper.from_array(np.array([1, 1, 8, 8]), "times"),
    ]
    _save(path, nodes, {"x": ["height", "width", 3]}, ["y"], constants)


def decoder(path: Path, *, masks: str = "low_res_masks") -> None:
    """Write a decoder: a diamond around the first point, plus the mask that it was given.

    Its second mask has the better quality; the first one is empty.
    """
    columns, rows = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
    constants = [
        numpy_helper.from_array(columns.astype(np.float32)[None, None], "columns"),
        numpy_helper.from_array(rows.astype(np.float32)[None, None], "rows"),
        numpy_helper.from_array(np.array(REACH, np.float32), "reach"),
        numpy_helper.from_array(np.array(-REACH, np.float32), "least"),
        numpy_helper.from_array(np.array(2, np.float32), "two"),
        numpy_helper.from_array(np.array(1, np.float32), "one"),
        numpy_helper.from_array(np.array(0), "zero"),
        numpy_helper.from_array(np.array(1), "second"),
        numpy_helper.from_array(np.full((1, 1, SIDE, SIDE), -9, np.float32), "empty"),
        numpy_helper.from_array(np.array([[0.1, 0.9]], np.float32), "quality"),
    ]
    node = helper.make_node
    nodes = [
        node("Gather", ["point_coords", "zero"], ["batch"], axis=0),
        node("Gather", ["batch", "zero"], ["point"], axis=0),
        node("Gather", ["point", "zero"], ["x"], axis=0),
        node("Gather", ["point", "second"], ["y"], axis=0),
        node("Gather", ["point_labels", "zero"], ["labels"], axis=0),
        node("Gather", ["labels", "zero"], ["label"], axis=0),
        node("Mul", ["label", "two"], ["double"]),
        node("Sub", ["double", "one"], ["sign"]),
        node("Sub", ["columns", "x"], ["dx"]),
        node("Sub", ["rows", "y"], ["dy"]),
        node("Abs", ["dx"], ["ax"]),
        node("Abs", ["dy"], ["ay"]),
        node("Add", ["ax", "ay"], ["distance"]),
        node("Sub", ["reach", "distance"], ["depth"]),
        node("Max", ["depth", "least"], ["near"]),
        node("Mul", ["near", "sign"], ["said"]),
        node("Mul", ["mask_input", "has_mask_input"], ["given"]),
        node("Add", ["given", "said"], ["both"]),
        node("Concat", ["empty", "both"], [masks], axis=1),
        node("Identity", ["quality"], ["iou_predictions"]),
    ]
    _save(path, nodes, DECODER_INPUTS, [masks, "iou_predictions"], constants)


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str]],
    outputs: Sequence[str],
    constants: Sequence[onnx.TensorProto],
) -> None:
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in inputs.items()
    ]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, path.stem, given, made, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
