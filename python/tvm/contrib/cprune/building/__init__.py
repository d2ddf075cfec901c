# SPDX-License-Identifier: Apache-2.0
"""Compiling models into libraries and bundles."""
