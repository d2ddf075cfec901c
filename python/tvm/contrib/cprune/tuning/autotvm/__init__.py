# SPDX-License-Identifier: Apache-2.0
"""AutoTVM: search, program structure and transplants."""
