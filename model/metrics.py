"""Dice and HD95 under the names that others rely on; `model.evaluation` computes them."""

from model.evaluation import dice, hd95

__all__ = ["dice", "hd95"]
