# SPDX-License-Identifier: Apache-2.0
"""The Ansor (auto_scheduler) backend: search, program structure and transplants."""
