# SPDX-License-Identifier: Apache-2.0
"""Variants of a transplanted program whose tile factors must change."""

from collections.abc import Mapping, Sequence

Lengths = tuple[int, ...]


def length_variants(choices: Mapping[int, Sequence[Lengths]], limit: int) -> list[dict[int, Lengths]]:
    """Return combinations of inner lengths to try.

    The first combination takes the closest lengths for every split. Each further one replaces the lengths of
    a single split by its next choice.

    Parameters
    ----------
    choices
        For each split, by the index of its step or knob, the possible inner lengths, closest first.
    limit
        Maximum number of combinations.

    Returns
    -------
    Inner lengths by split for each combination; one empty combination if there are no splits.
    """
    closest = {split: lengths[0] for split, lengths in choices.items()}
    variants = [closest]
    for rank in range(1, limit):
        for split, lengths in choices.items():
            if rank < len(lengths) and len(variants) < limit:
                variants.append({**closest, split: lengths[rank]})
    return variants
