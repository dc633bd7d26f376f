"""Sums of products of sizes: their arithmetic, and how they read."""

from __future__ import annotations

import pytest

from kvgen.explaining.quantity import Quantity

H, K, L = (Quantity.named(name) for name in "HKL")


@pytest.mark.parametrize(
    ("quantity", "text"),
    [
        (K * H * 2 + 3 * H, "2·H·K + 3·H"),
        (3 + 4 * K + H, "H + 4·K + 3"),
        (H * (K - 1) / 2, "H·K/2 - H/2"),
        ((K + H) * (K - H), "-H·H + K·K"),
        (K * 1.5 - 2 * K, "-K/2"),
        (H - H, "0"),
        (Quantity.of(7), "7"),
    ],
)
def test_a_quantity_reads_as_one_writes_it(quantity: Quantity, text: str) -> None:
    assert str(quantity) == text


def test_parts_by_powers_of_a_size() -> None:
    whole = 2 * H + (K + 1) * L + H * K / L
    parts = [str(whole.with_power("L", power)) for power in (-1, 0, 1, 2)]
    assert parts == ["H·K", "2·H", "K + 1", "0"]


def test_only_one_product_divides() -> None:
    with pytest.raises(ValueError):
        _ = H / (K + 1)
