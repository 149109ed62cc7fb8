"""Runs artifacts. Imports numpy and tvm_ffi only, never the compiler."""

from .loader import load
from .predictor import CompiledModel, Predictor

__all__ = ["CompiledModel", "Predictor", "load"]
