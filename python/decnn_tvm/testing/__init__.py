# SPDX-License-Identifier: Apache-2.0
"""What tests, tutorials and benchmarks share: networks with known structure, and equality."""
