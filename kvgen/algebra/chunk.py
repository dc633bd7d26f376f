"""Which recurrences take the tokens of a window as a chunk: as the columns of one product."""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.algebra.solving import solve

# channels of keys that tensor cores contract, and whose operands still fit a program's registers
LEAST_KEYS, MOST_KEYS = 16, 256
# of values, that fill a tile
LEAST_VALUES = 16


def forgives(form: Form) -> bool:
    """Whether what a token's write is off by does not grow with the tokens behind it: nothing that
    is written follows from reads, or each token erases at most what lies along its key, which is
    divided by its length.

    Where a token erases up to twice that, as in a product of reflections, roundings add up.
    """
    if not form.writes_read:
        return True
    factors = solve(form).factors or {}
    vectors = [read.args[0] for read in factors]
    vectors += [w for w, write in zip(form.keys, form.writes, strict=True) if write.d.reads]
    ranges = [(factor.bounds, -1.0, 0.0) for factor in factors.values()]
    ranges += [(vector.bounds, -1.0, 1.0) for vector in vectors]
    return bool(factors) and all(low <= x.lo and x.hi <= high for x, low, high in ranges)


def chunks(form: Form) -> bool:
    """Whether what every token reads is a column over K that is known before the state is read,
    what it writes is a sum of such reads or needs none, and what decays are heads or channels of K,
    of which none grows.

    Then scores and what is solved are T × T numbers for a head, whatever the value channel.
    """
    by_channel = [decay for decay in form.decays if decay.channel]
    shrink = all(decay.channel == "K" and decay.nonpositive for decay in by_channel)
    return _by_columns(form) and shrink


def swept(form: Form) -> bool:
    """The same of a prompt's blocks, where each key channel may have a decay of its own, of at most
    1: then a block's vectors are scaled by what decays in it."""
    by_channel = [decay for decay in form.decays if decay.channel]
    scaled = form.decays == form.scaled_decays and len(by_channel) == 1
    scaled = scaled and by_channel[0].channel == "K" and not form.factored
    return _by_columns(form) and (not by_channel or scaled)


def _by_columns(form: Form) -> bool:
    reads = [column.axes.channels == "K" for column in form.columns]
    return (
        form.windows
        and not form.remembered
        and bool(reads)
        and all(reads)
        and not form.whole_v
        and not form.carries
        and all(key not in form.late for key in form.keys)
        and (not form.writes_read or solve(form).factors is not None)
        and LEAST_KEYS <= form.spec.size("K") <= MOST_KEYS
        and form.spec.size("V") >= LEAST_VALUES
    )


def chunks_channels(form: Form) -> bool:
    """Whether its columns are scaled channel by channel: that takes time, which only times weigh
    against what columns save."""
    return chunks(form) and form.decay("K") is not None


def chunks_trees(form: Form) -> bool:
    """Whether its columns may also be a tree's: what decays by channel then lies in the keys as
    they are recorded. Scales that bring it are parts of one sum, as a tree's paths have none."""
    return chunks(form) and not form.scaled_decays
