"""ONNX: any model with elman layers out, and the recurrent nodes of any file in."""

from elman.onnx.exporting import export
from elman.onnx.loading import load
from elman.onnx.translations import register, translations

__all__ = ["export", "load", "translations"]

register()
