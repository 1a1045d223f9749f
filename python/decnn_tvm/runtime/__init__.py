# SPDX-License-Identifier: Apache-2.0
"""Workers, transports and sessions; imports nothing of the compiler."""
