"""Clicks and boxes: correct a draft of one class, or draw without one, where a person points."""

from model.clicks.prompts import Box, Click
from model.clicks.refining import refine
from model.clicks.two_part_network import TwoPartNetwork, joined

__all__ = ["Box", "Click", "TwoPartNetwork", "joined", "refine"]
