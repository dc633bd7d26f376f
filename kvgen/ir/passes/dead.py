"""Values that nothing looks at are not computed."""

from __future__ import annotations

from dataclasses import replace

from kvgen.ir.values import Block, Kernel, Let, Loop, Statement, Value, When, everywhere, used


def without_dead(kernel: Kernel) -> Kernel:
    """The kernel with what its stores need, and no more."""
    needed: set[Value] = set()
    # users stand behind what they use
    for statement in reversed(list(everywhere(kernel.body))):
        if not isinstance(statement, Let) or statement.value in needed:
            needed.update(used(statement))
    given = {name: value for name, value in kernel.given.items() if value in needed}
    return replace(kernel, given=given, body=_kept(kernel.body, needed))


def _kept(block: Block, needed: set[Value]) -> Block:
    kept: list[Statement] = []
    for statement in block:
        match statement:
            case Let(value) if value not in needed:
                pass
            case Loop() | When():
                # without anything in it there is none of it
                if body := _kept(statement.body, needed).statements:
                    kept.append(replace(statement, body=Block(body)))
            case _:
                kept.append(statement)
    return Block(tuple(kept))
