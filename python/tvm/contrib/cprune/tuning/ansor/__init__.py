# SPDX-License-Identifier: Apache-2.0
"""Ansor (auto_scheduler): search, program structure and transplants."""
