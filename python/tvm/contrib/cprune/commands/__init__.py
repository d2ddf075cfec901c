# SPDX-License-Identifier: Apache-2.0
"""Commands of ``python -m tvm.contrib.cprune``, one per module."""
