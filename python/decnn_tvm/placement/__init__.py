# SPDX-License-Identifier: Apache-2.0
"""Which channel group holds which channels: pure functions over index lists."""
