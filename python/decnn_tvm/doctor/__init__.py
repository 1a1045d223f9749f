# SPDX-License-Identifier: Apache-2.0
"""Finds out why a cluster does not work: machines, versions, keys, memory, clocks, links."""
