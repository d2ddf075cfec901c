# SPDX-License-Identifier: Apache-2.0
"""Program search and transplants, with one folder per tuning backend. Nothing here imports torch."""
