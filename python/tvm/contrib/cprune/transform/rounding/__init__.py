# SPDX-License-Identifier: Apache-2.0
"""Rounding the channels of a Relay function to widths that its tuned programs fit."""
