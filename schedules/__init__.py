# SPDX-License-Identifier: Apache-2.0
"""TIR schedules and the lowering of layers to blocked layouts."""
