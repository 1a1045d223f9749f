# SPDX-License-Identifier: Apache-2.0
"""``python -m decnn_tvm``: the command line."""

from __future__ import annotations

import sys

from decnn_tvm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
