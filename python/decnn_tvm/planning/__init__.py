# SPDX-License-Identifier: Apache-2.0
"""What a network would do on a cluster, each way to use it, and which way is best."""
