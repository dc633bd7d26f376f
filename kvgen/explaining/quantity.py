"""Quantities as sums of products of named sizes, which arithmetic makes of names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

# sizes with their powers, by name
Product = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Quantity:
    """A sum of products of sizes, each with its factor; none of them is 0."""

    terms: Mapping[Product, Fraction]

    @staticmethod
    def named(name: str) -> Quantity:
        return Quantity({((name, 1),): Fraction(1)})

    @staticmethod
    def of(value: Quantity | float) -> Quantity:
        if isinstance(value, Quantity):
            return value
        return Quantity({(): Fraction(value)} if value else {})

    def __add__(self, other: Quantity | float) -> Quantity:
        terms = dict(self.terms)
        for product, factor in Quantity.of(other).terms.items():
            terms[product] = terms.get(product, Fraction(0)) + factor
        return Quantity({product: factor for product, factor in terms.items() if factor})

    def __mul__(self, other: Quantity | float) -> Quantity:
        found = Quantity({})
        for one, factor in self.terms.items():
            for two, by in Quantity.of(other).terms.items():
                found += Quantity({_product(one, two): factor * by})
        return found

    def __sub__(self, other: Quantity | float) -> Quantity:
        return self + Quantity.of(other) * -1

    def __truediv__(self, other: Quantity | float) -> Quantity:
        """other: a number, or one product."""
        ((product, factor),) = Quantity.of(other).terms.items()
        inverse = tuple((name, -power) for name, power in product)
        return self * Quantity({inverse: 1 / factor})

    __radd__ = __add__
    __rmul__ = __mul__

    def with_power(self, name: str, power: int) -> Quantity:
        """What that power of a size is multiplied with."""
        found: dict[Product, Fraction] = {}
        for product, factor in self.terms.items():
            if dict(product).get(name, 0) == power:
                found[tuple(each for each in product if each[0] != name)] = factor
        return Quantity(found)

    def __str__(self) -> str:
        names = sorted({name for product in self.terms for name, _ in product})

        def powers(product: Product) -> list[int]:
            return [-dict(product).get(name, 0) for name in names]

        text = " + ".join(_term(each, self.terms[each]) for each in sorted(self.terms, key=powers))
        return text.replace("+ -", "- ") or "0"


def _product(one: Product, two: Product) -> Product:
    powers = dict(one)
    for name, power in two:
        powers[name] = powers.get(name, 0) + power
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def _term(product: Product, factor: Fraction) -> str:
    sizes = [name for name, power in product for _ in range(power)]
    number = [str(factor.numerator)] if abs(factor.numerator) != 1 or not sizes else []
    text = "·".join([*number, *sizes])
    sign = "-" if factor.numerator == -1 and sizes else ""
    return f"{sign}{text}/{factor.denominator}" if factor.denominator != 1 else f"{sign}{text}"
