# SPDX-License-Identifier: Apache-2.0
"""Reading networks: ONNX and torch.export programs; writing ONNX."""
