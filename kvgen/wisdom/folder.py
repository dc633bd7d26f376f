"""One folder of the store: <gpu>/<spec>.json, read with care and written at once or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from kvgen import files
from kvgen.wisdom import lock
from kvgen.wisdom.document import Document, parsed, text_of
from kvgen.wisdom.places import cache_folder
from kvgen.wisdom.record import Key, Record, merge

# seconds that another process may keep the lock before it is given up, by who writes, and by who
# only reads and would tidy up
PATIENCE, BRIEFLY = 300.0, 1.0


class WisdomWarning(UserWarning):
    """Something is wrong with the store, and kvgen goes on without it."""


@dataclass(frozen=True)
class Change:
    """What became of records: of those given some were new, better or no better than known."""

    added: int = 0
    replaced: int = 0
    kept: int = 0

    def __add__(self, other: Change) -> Change:
        sums = (self.added + other.added, self.replaced + other.replaced, self.kept + other.kept)
        return Change(*sums)

    def __str__(self) -> str:
        return f"+{self.added} ~{self.replaced} ={self.kept}"


def slug(gpu: str) -> str:
    """A GPU's name as that of a folder: nvidia-h100-80gb-hbm3."""
    found = re.sub("[^a-z0-9]+", "-", gpu.lower()).strip("-")[:80]
    return found or hashlib.sha256(gpu.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Folder:
    """A folder of wisdom that need not exist. name: what messages call it.

    ours: whether it is a user's, in which broken files are set aside; kvgen's own are only read.
    """

    root: Path
    name: str
    ours: bool = True

    def paths(self) -> list[Path]:
        return [
            path
            for folder in _listed(self.root)
            # whatever keeps it from being looked at
            if os.path.isdir(folder)  # noqa: PTH112
            for path in _listed(folder)
            if path.suffix == ".json" and not path.name.startswith(".")
        ]

    def records(self) -> list[Record]:
        """All records, of each key the best."""
        return merge((r for path in self.paths() for r in self.read(path).records), ())

    def read(self, path: Path) -> Document:
        """A file; what is wrong with it is said aloud, and a broken one is set aside."""
        try:
            document = _read(path)
        except OSError as error:
            warn(f"{path} cannot be read: {error.strerror}")
            return Document(())
        if document.is_future:
            warn(f"{path} is of wisdom version {document.version}: a newer kvgen reads it")
        if document.problem is None:
            return document
        kept = f"{len(document.records)} of its records could be read and stay in use"
        if not self.ours:
            warn(f"{path} is broken ({document.problem}): {kept}")
            return document
        try:
            with self.locked(BRIEFLY):
                # another process may have set it aside, or written it anew
                document = _read(path)
                aside = _set_aside(path, document) if document.problem else None
        except OSError as error:
            why = error.strerror or error
            warn(f"{path} is broken ({document.problem}) and cannot be set aside ({why}): {kept}")
            return document
        if aside is not None:
            warn(f"{path} is broken ({document.problem}): it is kept as {aside.name}; {kept}")
        return document

    def add(self, records: Iterable[Record], anew: Collection[Key] = ()) -> Change:
        """Merge records into their files, all or, where that fails, none. anew: keys of which what
        is known is replaced, even by less. Raises OSError."""
        groups: dict[tuple[str, str], list[Record]] = {}
        for record in merge(records, ()):
            groups.setdefault((record.key.gpu, record.spec), []).append(record)
        count = Change()
        if not groups:
            return count
        self.root.mkdir(parents=True, exist_ok=True)
        # what others need not wait for
        for gpu, spec in groups:
            with suppress(OSError):
                _read(self.root / slug(gpu) / f"{spec}.json")
        with self.locked():
            after = self._without(lambda record: record.key in anew) if anew else {}
            for (gpu, spec), group in groups.items():
                path = self._place(gpu, spec)
                known = list(_read(path).records)
                merged = merge(after.get(path, known), group)
                count += _counted(known, group, merged)
                if merged != known or path in after:
                    after[path] = merged
            _replace(after)
        return count

    def forget(self, gone: Callable[[Record], bool]) -> int:
        """Remove records; how many. Raises OSError."""
        if not self.root.is_dir():
            return 0
        with self.locked():
            after = self._without(gone)
            count = sum(len(_read(path).records) - len(left) for path, left in after.items())
            _replace(after)
        return count

    def _without(self, gone: Callable[[Record], bool]) -> dict[Path, list[Record]]:
        """What is left of the files that hold such records."""
        after: dict[Path, list[Record]] = {}
        for path in self.paths():
            try:
                known = _whole(path).records
            except files.NotPlainError:
                continue
            left = [record for record in known if not gone(record)]
            if len(left) < len(known):
                after[path] = left
        return after

    def _place(self, gpu: str, spec: str) -> Path:
        """The file for these records: never one of a later version, nor one of another GPU."""
        folder = self.root / slug(gpu)
        number = 1
        while True:
            path = folder / (f"{spec}.json" if number == 1 else f"{spec}.{number}.json")
            number += 1
            try:
                document = _whole(path)
            except files.NotPlainError:
                continue
            others = any((r.key.gpu, r.spec) != (gpu, spec) for r in document.records)
            if not document.is_future and not others:
                return path

    def locked(self, patience: float | None = None) -> AbstractContextManager[None]:
        """Alone in this folder, among all processes. Raises OSError, also where another process
        keeps it for longer than `patience`."""
        return lock.held(self._lock, PATIENCE if patience is None else patience, warn)

    @property
    def _lock(self) -> Path:
        if self.ours:
            return self.root / ".lock"
        # kvgen's own folder holds nothing that is not shipped
        name = hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:12]
        folder = cache_folder() / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.lock"


def warn(text: str) -> None:
    warnings.warn(text, WisdomWarning, stacklevel=3)


def _listed(folder: Path) -> list[Path]:
    """What is in a folder that need not exist, in order; why it cannot be read is said aloud."""
    try:
        found = sorted(folder.iterdir())
        # in a folder that can only be listed nothing can be looked at
        for path in found[:1]:
            path.lstat()
    except OSError as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError) or folder.is_file():
            warn(f"wisdom in {folder} cannot be read: {error.strerror}")
        return []
    return found


# path -> what stood in the file when it was last like that
_known: dict[Path, tuple[tuple[int, int, int], Document]] = {}


def _read(path: Path) -> Document:
    """A file that need not exist. Raises OSError."""
    try:
        found = files.status(path)
        sign = (found.st_mtime_ns, found.st_size, found.st_ino)
        if path not in _known or _known[path][0] != sign:
            _known[path] = sign, parsed(path.read_bytes())
        return _known[path][1]
    except FileNotFoundError:
        return Document(())


def _whole(path: Path) -> Document:
    """The same of a file that is about to be changed: a broken one is set aside."""
    document = _read(path)
    if document.problem:
        _set_aside(path, document)
        warn(f"{path} is broken ({document.problem}): it is kept whole beside it")
    return document


def _set_aside(path: Path, document: Document) -> Path:
    """Keep a broken file whole under another name, and what could be read of it in its place."""
    data = path.read_bytes()
    number = 1
    while True:
        aside = path.with_name(f"{path.name}.bad" if number == 1 else f"{path.name}.bad{number}")
        number += 1
        if not aside.exists():
            files.write(aside, data)
            break
        if aside.read_bytes() == data:
            break
    if document.records:
        files.write(path, _text(document.records))
    else:
        path.unlink()
    return aside


def _text(records: Sequence[Record]) -> bytes:
    """Of one spec, or each with its own."""
    specs = {record.spec for record in records}
    return text_of(records, specs.pop() if len(specs) == 1 else None).encode()


def _replace(after: dict[Path, list[Record]]) -> None:
    """Write files; none is touched before all of them are on the disk."""
    staged: dict[Path, Path] = {}
    try:
        for path, records in after.items():
            path.parent.mkdir(exist_ok=True)
            # what killed writers left: nobody else writes while the folder is locked
            for stale in path.parent.glob(f".{path.name}.*{files.SUFFIX}"):
                stale.unlink(missing_ok=True)
            if records:
                staged[path] = files.staged(path, _text(records))
        for path in after:
            if path in staged:
                staged[path].replace(path)
            else:
                path.unlink(missing_ok=True)
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


def _counted(known: list[Record], given: list[Record], after: list[Record]) -> Change:
    before = {record.key: record for record in known}
    now = {record.key: record for record in after}
    added = sum(r.key not in before for r in given)
    replaced = sum(r.key in before and before[r.key] != now.get(r.key) for r in given)
    return Change(added, replaced, len(given) - added - replaced)
