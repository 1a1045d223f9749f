# SPDX-License-Identifier: Apache-2.0
"""Run one CNN across several small devices."""
