# SPDX-License-Identifier: Apache-2.0
"""NNI's mask files and config lists."""
