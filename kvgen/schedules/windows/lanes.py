"""The numbers of a window's tokens, heads and values, and where what they leave lies."""

from __future__ import annotations

from kvgen.algebra.records import Stored
from kvgen.codegen.names import local
from kvgen.codegen.shapes import Shapes
from kvgen.ir.build import Builder
from kvgen.ir.values import Value
from kvgen.schedules.loads import Lanes
from kvgen.schedules.token import TokenProgram


class WindowProgram(TokenProgram, Lanes):
    """backs: by how many tokens ago, which of the window's an input was of, and where in the row's
    rings it lies if it was of none. last: whether a token is the last of a prompt's block."""

    last: Value

    def __init__(self, build: Builder, shapes: Shapes, ratio: int, single: bool) -> None:
        super().__init__(build, shapes, ratio, single)
        self.backs: dict[int, tuple[Value, Value]] = {}

    def back(self, age: int) -> tuple[Value, Value]:
        if age not in self.backs:
            names = (f"back_{age}", f"place_{age}")
            back, place = (self.build.given(name, "T") for name in names)
            self.backs[age] = back, place
        return self.backs[age]

    def after(self, count: Value) -> Value:
        """Where carried states stand after so many records."""
        return count

    def record(self, stored: Stored) -> tuple[Value, Value]:
        """Where a token's record goes."""
        return self.at(stored), self.within(self.spot, stored.channel)


class PagedProgram(WindowProgram):
    """Of rows whose records lie in pages. page: the one that is read. spot_page, inside: that in
    which a token leaves its records, and where there."""

    page: Value

    def __init__(self, build: Builder, shapes: Shapes, ratio: int, single: bool) -> None:
        super().__init__(build, shapes, ratio, single)
        self.spot_page = build.given("spot_page", "T", "long")
        self.inside = build.given("within", "T")

    def find_spots(self, position: Value) -> None:
        """Where tokens of a prompt leave their records, by their positions, if the row stays
        short."""
        build, places = self.build, self.build.given("PLACES")
        self.spot = build.add(self.count, position, "spot")
        room = build.binary("lt", self.spot, build.given("places"))
        stays = build.given("stays", type="bool")
        self.fits = build.every(stays, self.real_token, room, name="fits")
        number = build.binary("floordiv", self.spot, places)
        row = build.mul(build.given("slot", type="long"), build.given("table"))
        pages = build.given("pages_ptr", type="pointer")
        page = build.load(pages, build.add(row, number), self.fits, type="int")
        self.spot_page = build.cast(page, "long", "spot_page")
        self.inside = build.binary("mod", self.spot, places, "within")

    def after(self, count: Value) -> Value:
        return self.build.binary("mod", count, self.build.given("RING"))

    def plane(self, name: str) -> Value:
        state = self.build.given("state_page", type="long")
        size = self.build.number(self.shapes.k * self.shapes.v)
        return self.address(name, "HV", size, state)

    def at(self, stored: Stored) -> Value:
        return self.address(stored.name, stored.heads, self.each(stored.channel), self.page)

    def record(self, stored: Stored) -> tuple[Value, Value]:
        build, called = self.build, local(stored.name)
        terms = [build.given(f"{called}_layer", type="long")]
        terms += self.of_heads(stored.heads, self.each(stored.channel))
        terms.append(build.mul(self.spot_page, build.given(f"{called}_slot", type="long")))
        terms.append(self.within(self.inside, stored.channel))
        return build.given(f"{called}_ptr", type="pointer"), build.total(terms)
