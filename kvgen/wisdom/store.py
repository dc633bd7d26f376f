"""The store: folders of wisdom in their order, what they answer, and where results go."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from kvgen.data import data_dir
from kvgen.formats.dtypes import BFLOAT16
from kvgen.kernels.registry import subject
from kvgen.shipped import argument
from kvgen.wisdom.folder import Change, Folder, warn
from kvgen.wisdom.places import PlaceError, named_folders, user_folder
from kvgen.wisdom.record import Key, Record, Shape, merge, version

Tier = Literal["exact", "aged", "seed", "estimate"]
# what a seed shares with the key that it is for
SAME = ("kernel", "form", "gpu", "dtype")


@dataclass(frozen=True)
class Answer:
    """What the store says of a key.

    exact and aged records may be used as they are; a seed is where a search begins, and an
    estimate is no record at all. reason: the tier and why, in words.
    """

    tier: Tier
    record: Record | None
    reason: str

    @property
    def is_tuned(self) -> bool:
        return self.tier in ("exact", "aged")


# GPU -> kernel -> batch -> an exact or aged answer
Table = dict[str, dict[str, dict[int, Answer]]]


@dataclass(frozen=True)
class Added:
    """Where records went, and what became of them."""

    folder: Path
    change: Change


class Store:
    """Folders, the first of which answers where it can; triton: the version that runs here."""

    def __init__(self, folders: Iterable[Folder], triton: str | None = None) -> None:
        self.folders = tuple(folders)
        self.triton = triton

    @staticmethod
    def default() -> Store:
        """$KVGEN_WISDOM, then the user's own, then what ships with kvgen. Raises PlaceError."""
        named = [Folder(path, "$KVGEN_WISDOM") for path in named_folders()]
        try:
            own = [Folder(user_folder(), "the user's wisdom")]
        except PlaceError:
            if not named:
                raise
            own = []
        return Store([*named, *own, *Store.shipped().folders], triton_version())

    @staticmethod
    def shipped() -> Store:
        """What ships with kvgen, alone."""
        return Store([Folder(data_dir("tuned"), "shipped", ours=False)], triton_version())

    # look-up

    def find(self, key: Key, batch: int | None = None) -> Answer:
        """The best answer to a key: by tier, and in a tier by folder. batch: the one that is meant
        of all that the key stands for; what was tuned for another of them is a seed."""
        return self._answer(key, self._records(), batch)

    def table(
        self,
        form: str,
        shape: Shape,
        tokens: Mapping[str, int],
        dtype: str = BFLOAT16.name,
    ) -> Table:
        """All that may be baked into a module of this form with the heads and channels of `shape`.

        Measured records of this kernel's knobs alone, for every GPU that has any. tokens: of
        several counts that a kernel is tuned for, the one nearest to this is taken.
        """
        found = self._records()
        sizes = (shape.H, shape.HV, shape.K, shape.V)
        keys: dict[tuple[str, str], set[Key]] = {}
        for record in (each for records in found for each in records):
            key, of = record.key, record.key.shape
            fits = (key.form, key.dtype, (of.H, of.HV, of.K, of.V)) == (form, dtype, sizes)
            if fits and _unusable(record) is None:
                keys.setdefault((key.gpu, key.kernel), set()).add(key)
        table: Table = {}
        for gpu, kernel in sorted(keys):
            near = tokens.get(kernel, 1)
            counts = {key.shape.T for key in keys[gpu, kernel]}
            count = min(counts, key=lambda count: (_apart(count, near), count))
            chosen = {key.shape.B: key for key in keys[gpu, kernel] if count == key.shape.T}
            answers = {batch: self._answer(chosen[batch], found) for batch in sorted(chosen)}
            table.setdefault(gpu, {})[kernel] = answers
        return table

    def near(
        self, key: Key, count: int = 3, batch: int | None = None
    ) -> list[tuple[Record, list[str]]]:
        """Records that come closest to a key without answering it, with all that is different.
        batch: as `find` has it."""
        other = [
            (record, differences(key, record, batch))
            for record in merge((r for records in self._records() for r in records), ())
            if record.key.kernel == key.kernel
        ]
        other = [(record, wrong) for record, wrong in other if wrong]
        other.sort(key=lambda pair: (len(pair[1]), _distance(key.shape, pair[0].key.shape)))
        return other[:count]

    def _records(self) -> list[list[Record]]:
        return [folder.records() for folder in self.folders]

    def _answer(self, key: Key, found: list[list[Record]], batch: int | None = None) -> Answer:
        every = [record for records in found for record in records]
        same = [r for r in every if r.key == key and batch in (None, r.batch)]
        # a search that was cut short takes the place of none that was not, wherever that lies
        same.sort(key=lambda record: record.is_cut)
        usable = [record for record in same if _unusable(record) is None]
        for record in usable:
            if not self._is_aged(record):
                return Answer("exact", record, f"exact: {_how(record)}")
        if usable:
            record = usable[0]
            reason = f"aged: tuned with triton {record.env['triton']}, here is {self.triton}"
            return Answer("aged", record, f"{reason} (kvgen tune {argument(record.spec)} --gpu)")
        wanted = _meant(key.shape, batch)
        seeds = [
            record
            for record in every
            if record not in same and _is_kin(key, record.key) and _unusable(record) is None
        ]
        if seeds:
            seed = min(seeds, key=lambda record: _distance(wanted, _tuned(record, batch)))
            reason = f"seed: tuned for {', '.join(_unlike(wanted, _tuned(seed, batch)))}"
            return Answer("seed", seed, f"{reason}, {_how(seed)}")
        why = _unusable(same[0]) if same else f"nothing tuned on {key.gpu} for this form"
        return Answer("estimate", None, f"estimate: {why}")

    def _is_aged(self, record: Record) -> bool:
        """Whether another Triton compiled it, as far as both are known."""
        theirs = record.env.get("triton")
        if not theirs or not self.triton:
            return False
        return version(theirs)[:2] != version(self.triton)[:2]

    # change

    @property
    def own(self) -> Folder:
        """The folder that is written to."""
        return self.folders[0]

    def add(self, records: Iterable[Record], anew: Collection[Key] = ()) -> Added:
        """Merge records into the first folder that can be written, and say so where it is not the
        first: nothing that was measured is lost. anew: keys of which what that folder has is
        replaced, even by less. Raises OSError where nothing can be written."""
        records = list(records)
        refused: list[str] = []
        spare = [folder for folder in self.folders[1:] if folder.ours]
        for folder in [self.own, *spare, None]:
            # behind the user's own folders, one that is always new
            target = folder or Folder(Path(tempfile.mkdtemp(prefix="kvgen-wisdom-")), "spare")
            try:
                change = target.add(records, anew)
            except OSError as error:
                if folder is None:
                    raise
                refused.append(f"{target.root} ({error.strerror or error})")
                continue
            if refused:
                text = f"cannot write wisdom to {' nor to '.join(refused)}: it is in {target.root}"
                warn(text if folder else f"{text}, which nothing reads: KVGEN_WISDOM={target.root}")
            return Added(target.root, change)
        raise AssertionError

    def forget(self, gone: Callable[[Record], bool]) -> int:
        """Remove records from the folder that is written to; how many. Raises OSError."""
        return self.own.forget(gone)


@cache
def triton_version() -> str | None:
    """The version of Triton that is installed, without importing it."""
    from importlib import metadata

    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return None


def differences(key: Key, record: Record, batch: int | None = None) -> list[str]:
    """What keeps a record from answering a key, in words. batch: as `Store.find` has it."""
    other = record.key
    found = []
    if other.gpu != key.gpu:
        found.append(f"on {other.gpu}")
    if other.form != key.form:
        found.append(f"another form ({other.form}, not {key.form})")
    if other.dtype != key.dtype:
        found.append(f"{other.dtype}, not {key.dtype}")
    found += _unlike(_meant(key.shape, batch), _tuned(record, batch))
    return found + ([why] if (why := _unusable(record)) else [])


def _meant(shape: Shape, batch: int | None) -> Shape:
    return shape if batch is None else replace(shape, B=batch)


def _tuned(record: Record, batch: int | None) -> Shape:
    """What a record was tuned for, as exactly as is asked for."""
    return record.key.shape if batch is None else replace(record.key.shape, B=record.batch)


def _unlike(wanted: Shape, other: Shape) -> list[str]:
    names = {"B": "batch", "T": "tokens"}
    return [
        f"{names.get(name, name)} {number}, not {getattr(wanted, name)}"
        for name, number in vars(other).items()
        if number != getattr(wanted, name)
    ]


def _unusable(record: Record) -> str | None:
    """Why a record cannot be used whatever the key, or None."""
    knobs = subject(record.key.kernel).knobs
    if set(record.config) != set(knobs):
        here, there = (", ".join(sorted(each)) for each in (knobs, record.config))
        return f"another version of the kernel: tuned over {there}, but it has {here}"
    return None


def _is_kin(key: Key, other: Key) -> bool:
    """The same but for the batch and the share of the heads."""
    return all(getattr(key, name) == getattr(other, name) for name in SAME)


def _distance(wanted: Shape, other: Shape) -> float:
    return sum(
        _apart(a, b) for a, b in zip(vars(wanted).values(), vars(other).values(), strict=True)
    )


def _apart(a: int, b: int) -> float:
    return abs(math.log2(max(a, 1) / max(b, 1)))


def _how(record: Record) -> str:
    how = f"{record.effort} effort"
    if record.is_cut:
        how += ", cut short"
    return f"{how}, {record.date}" if record.date else how
