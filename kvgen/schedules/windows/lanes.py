"""The numbers of a window's tokens, heads and values, and where what they leave lies."""

from __future__ import annotations

from kvgen.algebra.records import Stored
from kvgen.codegen.names import local
from kvgen.codegen.shapes import Shapes
from kvgen.ir.build import Builder
from kvgen.ir.values import Value
from kvgen.schedules.loads import Lanes
from kvgen.schedules.paged import PagedProgram
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


class PagedWindow(PagedProgram, WindowProgram):
    """Of rows whose records lie in pages. page: the one that is read."""

    page: Value

    def __init__(self, build: Builder, shapes: Shapes, ratio: int, single: bool) -> None:
        super().__init__(build, shapes, ratio, single)
        self.spot_page = build.given("spot_page", "T", "long")
        self.inside = build.given("within", "T")

    def of_prompt(self, position: Value) -> None:
        """Tokens of a prompt, by their positions, leave records if the row stays short."""
        build = self.build
        self.spot = build.add(self.count, position, "spot")
        stays = build.given("stays", type="bool")
        self.find_spots(self.spot, build.given("places"), stays, self.real_token, inside="within")

    def at(self, stored: Stored) -> Value:
        return self.address(stored.name, stored.heads, self.each(stored.channel), self.page)

    def record(self, stored: Stored, place: Value) -> tuple[Value, Value]:
        build, called = self.build, local(stored.name)
        terms = [build.given(f"{called}_layer", type="long")]
        terms += self.of_heads(stored.heads, self.each(stored.channel))
        terms.append(build.mul(self.spot_page, build.given(f"{called}_slot", type="long")))
        terms.append(self.within(self.inside, stored.channel))
        return build.given(f"{called}_ptr", type="pointer"), build.total(terms)
