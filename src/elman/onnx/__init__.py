"""ONNX: any model with elman layers out, and the recurrent nodes of any file in."""

from elman.onnx.checking import check
from elman.onnx.exporting import export
from elman.onnx.loading import load
from elman.onnx.runs import export_run
from elman.onnx.translations import register, translations

__all__ = ["check", "export", "export_run", "load", "translations"]

register()
