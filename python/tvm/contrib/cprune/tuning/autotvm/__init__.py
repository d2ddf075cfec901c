# SPDX-License-Identifier: Apache-2.0
"""The AutoTVM backend: search, configurations and transplants."""
