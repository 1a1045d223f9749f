# SPDX-License-Identifier: Apache-2.0
"""Networks in and out: ONNX files and exported PyTorch programs to Relax, and Relax to ONNX."""

from __future__ import annotations

from decnn_tvm.frontend.loading import load
from decnn_tvm.frontend.onnx_writer import save_onnx, to_onnx

__all__ = ["load", "save_onnx", "to_onnx"]
