# SPDX-License-Identifier: Apache-2.0
"""Searching, transplanting and timing programs. Nothing below this package imports torch."""
