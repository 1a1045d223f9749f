# SPDX-License-Identifier: Apache-2.0
"""The command line `decnn`: parses, calls a library function, prints."""
