# SPDX-License-Identifier: Apache-2.0
"""NNI mask files and config lists."""
