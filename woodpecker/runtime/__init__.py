"""Runs artifacts. Imports numpy and tvm_ffi only, never the compiler."""

from .compiled import CompiledModel
from .loader import load
from .predictor import Predictor

__all__ = ["CompiledModel", "Predictor", "load"]
