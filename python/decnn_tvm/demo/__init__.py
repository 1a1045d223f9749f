# SPDX-License-Identifier: Apache-2.0
"""What ``decnn demo`` measures: a trained network split exactly, and a decoupled one streamed."""
