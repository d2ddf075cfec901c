# SPDX-License-Identifier: Apache-2.0
"""The pruning loop's parts: training, decisions, journal, result and reports."""
