# SPDX-License-Identifier: Apache-2.0
"""PyTorch models: channel groups, importance, pruning and checkpoints."""
