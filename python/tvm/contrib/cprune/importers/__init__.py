# SPDX-License-Identifier: Apache-2.0
"""Importers from PyTorch and ONNX to Relay."""
