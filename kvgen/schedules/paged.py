"""Where rows have what they hold if it lies in pages, and where a token leaves its own."""

from __future__ import annotations

from copy import copy

from kvgen.algebra.records import Stored
from kvgen.codegen.names import local
from kvgen.codegen.shapes import Shapes
from kvgen.ir.build import Builder
from kvgen.ir.values import Value
from kvgen.schedules.token import TokenProgram


class PagedProgram(TokenProgram):
    """spot_page, inside: the page in which a token leaves its records, and where there; fits: if
    there is a place."""

    fits: Value
    spot_page: Value
    inside: Value

    def find_spots(self, place: Value, places: Value, *holds: Value, inside: str) -> None:
        """Where a token that takes a place leaves its records, if a row has so many and something
        else holds. inside: what the place within its page is called."""
        build, of_page = self.build, self.build.given("PLACES")
        # one condition is a value of its own
        room = build.binary("lt", place, places, None if holds else "fits")
        self.fits = build.every(*holds, room, name="fits") if holds else room
        number = build.binary("floordiv", place, of_page)
        self.spot_page = build.cast(self.of_row("pages", number, self.fits), "long", "spot_page")
        self.inside = build.binary("mod", place, of_page, inside)

    def of_row(
        self, table: str, number: Value | None, mask: Value | None = None, name: str | None = None
    ) -> Value:
        """What a table has of one of the row's pages, or of the first."""
        build = self.build
        at = build.mul(self.slot, build.given("table"))
        at = build.add(at, number) if number else at
        return build.load(build.given(f"{table}_ptr", type="pointer"), at, mask, name, type="int")

    def room(self, place: Value, number: int) -> list[Value]:
        return [self.fits]

    def after(self, count: Value) -> Value:
        return self.build.binary("mod", count, self.build.given("RING"))

    def plane(self, name: str) -> Value:
        state = self.build.given("state_page", type="long")
        size = self.build.number(self.shapes.k * self.shapes.v)
        return self.address(name, "HV", size, state)


class PagedToken(PagedProgram):
    """A token alone, of value heads along G where a program has several. page, in_page: where the
    places lie whose records are read; None: at a page's beginning."""

    page: Value
    in_page: Value | None

    def __init__(self, build: Builder, shapes: Shapes, ratio: int, single: bool) -> None:
        super().__init__(build, shapes, ratio, single, "" if single else "G")
        self.begun()

    def there(
        self, page: Value, in_page: Value | None, held: Value, called: str = ""
    ) -> PagedToken:
        """The same at other places. called: what the names begin with of where these lie."""
        found = copy(self)
        found.page, found.in_page, found.held, found.called = page, in_page, held, called
        return found

    def rows(self, key: Value) -> PagedToken:
        """The same with a few key channels."""
        few = copy(self)
        few.key, few.masks = key, dict(self.masks)
        if self.shapes.masks_k:
            few.masks["K"] = self.build.binary("lt", key, self.build.number(self.shapes.k))
        return few

    def at(self, stored: Stored) -> Value:
        """Where the records of these places begin."""
        build, called, width = self.build, local(stored.name), self.shapes.size(stored.channel)
        at = build.mul(self.page, build.given(f"{called}_slot", type="long"))
        if self.in_page:
            size = build.number(width)
            at = build.add(at, build.mul(self.in_page, size) if width > 1 else self.in_page)
        pointer, layer = build.given(f"{called}_ptr", type="pointer"), f"{called}_layer"
        heads = self.of_heads(stored.heads, self.each(stored.channel))
        begin = build.total([pointer, build.given(layer, type="long"), *heads])
        return build.add(begin, at, f"{self.called}{called}_at")

    def record(self, stored: Stored, place: Value) -> tuple[Value, Value]:
        spot = self.there(self.spot_page, self.inside, self.fits, "spot_")
        return spot.at(stored), self.within(None, stored.channel)

    def after(self, count: Value) -> Value:
        name = "ring_place" if count is self.count else "next_ring_place"
        return self.build.binary("mod", count, self.build.given("RING"), name)

    def leads(self, heads: str | None) -> list[Value]:
        if self.single or heads == "HV":
            return super().leads(heads)
        build = self.build
        leads = build.binary("lt", self.part, build.given("PER_HEAD"), "leads")
        # none of a program's heads is told from the others by what all of them have
        group = [] if heads else [build.binary("eq", self.group, build.number(0))]
        return [leads, *group]
