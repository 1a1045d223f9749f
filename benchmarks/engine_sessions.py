# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime and ncnn as benchmarks set them up: all optimisations, float32, so many threads.

Each is imported where it is used, so that a process has the one it asks for alone.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import Any

from decnn_tvm.errors import CompileError


def onnx_runtime_options(threads: int = 1) -> Any:
    """Return the options of an ONNX Runtime session."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return options


def convert_to_ncnn(folder: Path, name: str) -> None:
    """Convert ``NAME.onnx`` in a folder by pnnx.

    Raises
    ------
    CompileError
        pnnx can't.
    """
    import pnnx

    command = [pnnx.EXEC_PATH, f"{name}.onnx", "fp16=0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if not (folder / f"{name}.ncnn.param").is_file():
        raise CompileError(f"pnnx can't convert {name}: {done.stdout[-300:]}{done.stderr[-300:]}")


def load_ncnn(folder: Path, name: str, threads: int = 1) -> Any:
    """Return ncnn's network of what `convert_to_ncnn` wrote, with Winograd and packed layouts."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, option, False)
    for option in ("use_bf16_storage", "use_bf16_packed"):
        with contextlib.suppress(AttributeError):  # not in every version
            setattr(net.opt, option, False)
    for option in ("use_winograd_convolution", "use_sgemm_convolution", "use_packing_layout"):
        setattr(net.opt, option, True)
    net.load_param(str(folder / f"{name}.ncnn.param"))
    net.load_model(str(folder / f"{name}.ncnn.bin"))
    return net
