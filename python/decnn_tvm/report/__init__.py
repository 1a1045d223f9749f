# SPDX-License-Identifier: Apache-2.0
"""A network on a cluster as one page of HTML, for people."""
