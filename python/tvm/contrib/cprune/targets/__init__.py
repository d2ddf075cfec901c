# SPDX-License-Identifier: Apache-2.0
"""Compilation targets: presets, target strings and operator strategies."""
