"""What kernels call things: their own names, at which a spec's names step aside, the arguments for
inputs and parameters, and the tensors of the cache."""

from __future__ import annotations

import keyword
from dataclasses import dataclass, field

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records

# names the templates use inside kernels; a spec's own names step aside
NAMES = """
tl triton torch math float int bool range min max abs sum len print
heads head group groups leads row slot part unit step tile value_tile key value blank
place skipped one marks counts held after newer oldest count j
since since_key since_value kept kept_key kept_value weight
total state high low item items entry layer listed real_key real_value
slot_count first_slot out_row out_head out_ptr dst_ptr src_ptr
slots_ptr cursors_ptr skipped_ptr pending_ptr work_ptr
PLACES SPAN TILE TILES PARTS PER_HEAD STAGES
token tokens real_token parent ancestors depth turn ready real_log position spot fits last later
long_token long_position
path path_key path_value log log_key log_value weights rest rest_key rest_value
lasting lasting_key lasting_value total_key total_value since_key since_value
whole start length stays back index word within spot_page pages_held real_state next
TOKENS WINDOW TREE
first final number page pages places state_page stateful table words
pages_ptr state_pages_ptr stateful_ptr table_ptr CONTEXT BUFFER TABLE RING PAGES
blocks newer_page newer_within oldest_page cursor row_key ROWS
brought source target
limit wanted PACKED LATE SAVE ahead out_token block wide layers src dst
lengths_ptr parents_ptr parents_row parents_token
numbers_ptr matrices_ptr numbers_at matrices_at vectors_at out_at
first_head in_front begun HEADS NUMBERS HALVES
EARLY PDL DOT KEYS ALONG INTERPRETED EXACT ROUGH PROMPT PROMPT_MARK
order_ptr order_at ring back_1 to_come
left_ptr left_row left_token left_head bit items rows real_item owner later counts
FINISH ITEMS LENGTHS BITS
"""
KERNEL_NAMES = frozenset(NAMES.split())


@dataclass
class Namer:
    """Hands out identifiers that are still free."""

    taken: set[str] = field(default_factory=set)
    # how often a name was wanted, so that a much wanted one is found at once
    counts: dict[str, int] = field(default_factory=dict)

    def new(self, wanted: str) -> str:
        name, count = wanted, self.counts.get(wanted, 1)
        while name in self.taken:
            count += 1
            name = f"{wanted}_{count}"
        self.counts[wanted] = count
        self.taken.add(name)
        return name


def namer_for(form: Form, records: Records) -> Namer:
    taken = {*KERNEL_NAMES, *keyword.kwlist}
    for tensor in (*form.spec.inputs, *form.spec.params):
        taken |= {pointer_name(tensor.name)}
        taken |= {f"{tensor.name}_{stride_name(axis)}" for axis in ("B", "H", *tensor.axes)}
        taken |= {f"{tensor.name}_token"}
    for name in cache_names(form, records):
        taken |= {f"{local(name)}_{part}" for part in ("ptr", "slot", "layer", "at")}
    taken |= {f"{carry.tensor.name}_context" for carry in form.carries}
    ages = range(1, form.most_past + 1)
    taken |= {f"{each}_{age}" for each in ("back", "place") for age in ages}
    return Namer(taken)


def local(name: str) -> str:
    """What a tensor of the cache is called inside kernels, where inputs have names too."""
    return f"{name}_cache"


def cache_names(form: Form, records: Records) -> list[str]:
    """Every tensor of the cache that belongs to slots, layer by layer."""
    carried = [carry.tensor.name for carry in form.carries]
    pasts = [past.name for past in form.spec.pasts]
    return [*form.planes, *(s.name for s in records.stored), *carried, *pasts]


def pointer_name(name: str) -> str:
    # an input may have the name that `local` gives to a tensor of the cache
    return f"{name}_ptr_" if name.endswith("_cache") else f"{name}_ptr"


def stride_name(axis: str) -> str:
    word = axis.lower()
    taken = ("row", "token", "head", "ptr", "slot", "layer", "at")
    given = f"{word}_axis" if word in taken else word
    return {"B": "row", "H": "head", "HV": "head"}.get(axis, given)


def by_channel(name: str) -> dict[str, str]:
    """What a decay's values are called, by the channel that it depends on."""
    return {"": name, "K": f"{name}_key", "V": f"{name}_value"}
