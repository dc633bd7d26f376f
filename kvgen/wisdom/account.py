"""What the store holds and what it answers, as rows for people and data for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kvgen import shipped
from kvgen.analysis import Analysis
from kvgen.diagnostics import did_you_mean
from kvgen.kernels.registry import subjects_of
from kvgen.shipped import UnknownSpec
from kvgen.wisdom.folder import Folder
from kvgen.wisdom.identity import key_of
from kvgen.wisdom.record import Key, Record
from kvgen.wisdom.storages import Analyse, storages, words
from kvgen.wisdom.store import Answer, Store


@dataclass(frozen=True)
class Held:
    """A record, the folder that it is in, and how its form keeps the state, as far as known."""

    record: Record
    folder: Folder
    storage: Mapping[str, str] = field(default_factory=dict)

    @property
    def form(self) -> str:
        shape, kept = self.record.key.shape, words(self.storage) if self.storage else "?"
        return f"{kept}, K {shape.K}, V {shape.V} ({self.record.key.form})"

    def row(self) -> tuple[Any, ...]:
        record, shape = self.record, self.record.key.shape
        return (
            record.spec,
            record.key.gpu,
            self.form,
            f"{shape.H}/{shape.HV}",
            record.key.kernel,
            str(shape.B or "all"),
            record.median,
            f"{record.floor_us / record.median:.0%}",
            record.effort,
            constants(record),
            self.folder.name,
        )

    def data(self) -> dict[str, Any]:
        where = {"name": self.folder.name, "path": str(self.folder.root)}
        kept = {"storage": dict(self.storage) or None}
        return {"spec": self.record.spec, "folder": where, **self.record.data(), **kept}


HEAD = (
    *("spec", "GPU", "form", "H/HV", "kernel", "batch", "us", "floor", "effort"),
    *("configuration", "kept in"),
)


@dataclass(frozen=True)
class Reason:
    """What the store answers for a key and a batch, 0 for all. near: where nothing does, the
    records that come closest, and what keeps them from it."""

    key: Key
    batch: int
    answer: Answer
    near: tuple[tuple[Record, tuple[str, ...]], ...]

    def data(self) -> dict[str, Any]:
        record = self.answer.record
        return {
            "gpu": self.key.gpu,
            "kernel": self.key.kernel,
            "batch": self.batch,
            "form": self.key.form,
            "tier": self.answer.tier,
            "reason": self.answer.reason,
            "record": record and {"spec": record.spec, **record.data()},
            "near": [
                {"spec": record.spec, "differs": list(wrong), **record.data()}
                for record, wrong in self.near
            ],
        }


def held(store: Store, spec: str | None = None, gpu: str | None = None) -> list[Held]:
    """All records, of a spec by name, of GPUs by a part of their names."""
    return [
        Held(record, folder)
        for folder in store.folders
        for record in folder.records()
        if is_chosen(record, spec, gpu)
    ]


def known(store: Store, spec: str) -> str:
    """The name of a spec that ships or has records, as one may that is gone; UnknownSpec of any
    other."""
    names = {each.name for each in shipped.shipped()}
    if spec not in names:
        names |= {each.record.spec for each in held(store)}
    if spec in names:
        return spec
    help = did_you_mean(spec, sorted(names)) or "one of your own is named by its file"
    raise UnknownSpec(f"'{spec}' is neither a shipped spec nor one that has records: {help}")


def described(found: Iterable[Held], analyse: Analyse) -> list[Held]:
    """The same, with how each of their forms keeps its state."""
    found = list(found)
    known = storages((each.record for each in found), analyse)
    return [replace(each, storage=known[each.record.spec, each.record.key.form]) for each in found]


def is_chosen(record: Record, spec: str | None, gpu: str | None) -> bool:
    return spec in (None, record.spec) and is_named(record.key.gpu, gpu)


def is_named(name: str, part: str | None) -> bool:
    """Whether a GPU is meant: by its name or a part of it, in capitals or not."""
    return part is None or part.lower() in name.lower()


def gpus(store: Store, part: str | None = None) -> list[str]:
    """The GPUs that the store knows of, or the one that is named where it knows none such."""
    known = {each.record.key.gpu for each in held(store)}
    found = sorted(name for name in known if is_named(name, part))
    return found or ([part] if part else [])


def rows(found: Iterable[Reason]) -> list[tuple[str, ...]]:
    """GPU, kernel, batches, answer, configuration: batches with one answer share a row."""
    batches: dict[tuple[str, ...], list[str]] = {}
    for each in found:
        key, record = each.key, each.answer.record
        chosen = constants(record) if record and each.answer.is_tuned else ""
        group = (key.gpu, key.kernel, each.answer.reason, chosen)
        batches.setdefault(group, []).append(str(each.batch or "all"))
    return [(*group[:2], ", ".join(batches[group]), *group[2:]) for group in batches]


def nearest(found: Iterable[Reason]) -> list[tuple[str, ...]]:
    """GPU, kernel, spec, configuration, and what keeps it from being an answer."""
    near: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for each in found:
        wrong = [(r.spec, constants(r), "; ".join(differs)) for r, differs in each.near]
        # those of one batch stand for all
        near.setdefault((each.key.gpu, each.key.kernel), wrong)
    return [(*group, *row) for group, found in near.items() for row in found]


def reasons(
    store: Store, analysis: Analysis, names: Iterable[str], batches: Iterable[int]
) -> Iterator[Reason]:
    """What the store answers for every kernel of a form on the named GPUs."""
    batches = list(batches)
    count = 3 if len(batches) == 1 else 1
    for gpu in names:
        for each in subjects_of(analysis.form):
            for batch in each.batches(batches):
                key = key_of(analysis, each.name, gpu, batch, each.tokens(analysis.form))
                answer = store.find(key, batch)
                found = store.near(key, count, batch) if answer.tier == "estimate" else []
                near = tuple((record, tuple(wrong)) for record, wrong in found)
                yield Reason(key, batch, answer, near)


def constants(record: Record) -> str:
    return " ".join(f"{name}={value}" for name, value in record.config.items())
