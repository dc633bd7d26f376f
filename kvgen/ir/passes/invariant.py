"""What is the same in every turn of a loop is computed once, in front of it."""

from __future__ import annotations

from dataclasses import replace

from kvgen.ir.values import Block, Kernel, Let, Loop, Move, Statement, Value, When, everywhere


def hoisted(kernel: Kernel) -> Kernel:
    """The kernel with what does not change in its loops in front of them."""
    return replace(kernel, body=_block(kernel.body))


def _block(block: Block) -> Block:
    found: list[Statement] = []
    for statement in block:
        match statement:
            case Loop(index):
                moves = (each for each in everywhere(statement.body) if isinstance(each, Move))
                moving = {index, *(each.given for each in moves)}
                # what a loop within it computes in every turn would take registers around that
                same, turn = _parted(statement.body, moving)
                found += [*same, replace(statement, body=turn)]
            case When():
                found.append(replace(statement, body=_block(statement.body)))
            case _:
                found.append(statement)
    return Block(tuple(found))


def _parted(body: Block, moving: set[Value]) -> tuple[list[Statement], Block]:
    """What does not follow from what moves from turn to turn, and the rest. Of memory that is read
    there nothing is stored to: a token's records lie behind those that are held."""
    same: list[Statement] = []
    turn: list[Statement] = []
    for statement in body:
        if isinstance(statement, Let) and moving.isdisjoint(
            (statement.value, *statement.value.args)
        ):
            same.append(statement)
            continue
        turn.append(statement)
        everything = everywhere(Block((statement,)))
        moving.update(each.value for each in everything if isinstance(each, Let))
    return same, Block(tuple(turn))
