"""Which recurrences take the tokens of a window as a chunk: as the columns of one product."""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.algebra.solving import solve

# channels of keys that tensor cores contract, and whose operands still fit a program's registers
LEAST_KEYS, MOST_KEYS = 16, 256
# of values, that fill a tile
LEAST_VALUES = 16


def chunks(form: Form) -> bool:
    """Whether what every token reads is a column over K that is known before the state is read,
    what it writes is a sum of such reads or needs none, and what decays are heads or channels of K,
    of which none grows.

    Then scores and what is solved are T × T numbers for a head, whatever the value channel.
    """
    reads = [column.axes.channels == "K" for column in form.columns]
    return (
        form.windows
        and bool(reads)
        and all(reads)
        and not form.whole_v
        and not form.carries
        and all(not decay.channel or decay.channel == "K" for decay in form.decays)
        and all(not decay.channel or decay.nonpositive for decay in form.decays)
        and all(key not in form.late for key in form.keys)
        and (not form.writes_read or solve(form).factors is not None)
        and LEAST_KEYS <= form.spec.size("K") <= MOST_KEYS
        and form.spec.size("V") >= LEAST_VALUES
    )


def chunks_trees(form: Form) -> bool:
    """Whether its columns may also be a tree's: what decays by channel then lies in the keys as
    they are recorded. Scales that bring it are parts of one sum, as a tree's paths have none."""
    return chunks(form) and not form.scaled_decays
