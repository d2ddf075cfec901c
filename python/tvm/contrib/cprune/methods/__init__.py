# SPDX-License-Identifier: Apache-2.0
"""The pruning methods: what decides the widths of the pruned model."""
