# SPDX-License-Identifier: Apache-2.0
"""Building and timing programs and models, on this machine or on RPC devices. Nothing here imports torch."""
