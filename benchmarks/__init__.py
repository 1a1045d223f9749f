# SPDX-License-Identifier: Apache-2.0
"""Benchmarks against the alternatives; each module is a command: ``python -m benchmarks.X``.

Kernels run on one thread unless a benchmark says otherwise: set here, before any engine is loaded.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["TVM_NUM_THREADS"] = "1"
