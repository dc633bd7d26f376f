"""From a spec to a module: analyse, emit, write, import."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from kvgen import ending, files, shipped
from kvgen.algebra import idle, rounded
from kvgen.algebra.factored import factored
from kvgen.algebra.form import derive
from kvgen.algebra.records import plan_records
from kvgen.analysis import Analysis
from kvgen.diagnostics import SpecError, SpecWarning, tidy
from kvgen.language import source, spec
from kvgen.scaffold import check_free
from kvgen.wisdom import baking
from kvgen.wisdom.store import Table


def analyse(path_or_text: str | Path, overrides: dict[str, str] | None = None) -> Analysis:
    """Read and derive a spec.

    path_or_text: a path, or the text itself. overrides: values by dotted path, as in
    {"storage.state": "split"}. What will disappoint stands in `warnings`. Raises SpecError with
    everything that is wrong with the spec.
    """
    read, diagnostics = spec.read(path_or_text, overrides or {})
    form = None
    if read is not None:
        form, found = derive(read)
        diagnostics = [*diagnostics, *found]
    if diagnostics or read is None or form is None:
        text = read.original if read is not None else _text(path_or_text)
        raise SpecError(diagnostics, _path(path_or_text), text)
    said = tidy((*idle.warnings(form), *rounded.warnings(read.storage)))
    form = factored(form)
    return Analysis(read, form, plan_records(form), said)


def emit(
    analysis: Analysis,
    known: Table | None = None,
    features: Iterable[str] | None = None,
    untimed: bool = False,
) -> str:
    """The module's text. known: what is tuned, by default all that the store knows of this form.
    features: what it can do, some of `kvgen.codegen.features.ALL`; all of it where None. untimed:
    also with the kernels that run only where they have been timed, though they are on no GPU: for
    who times or checks them."""
    from kvgen.codegen.features import SHORT, completed
    from kvgen.explaining.explain import form_text
    from kvgen.kernels.untuned import waiting
    from kvgen.rendering.render import render
    from kvgen.schedules.written import WITH_PAGES, written

    table = baking.known(analysis) if known is None else known
    tuned = baking.baked(analysis, table)
    chosen = completed(features)
    form, records = analysis.form, analysis.records
    without = set(() if untimed else waiting(form, tuned.configs))
    without |= set() if SHORT in chosen else set(WITH_PAGES)
    schedule = partial(written, without=without)
    return render(form, records, form_text(analysis), tuned, chosen, schedule)


def write(
    analysis: Analysis,
    out: Path | None = None,
    known: Table | None = None,
    features: Iterable[str] | None = None,
    untimed: bool = False,
) -> Path:
    """Write the module to a file, or into a directory as NAME.py (default: here).

    The file appears whole or not at all, and is left alone where it holds the same text already.
    known, features, untimed: as `emit` has them. Raises NotTuned where KVGEN_REQUIRE_TUNED is 1
    and nothing is.
    """
    name = f"{analysis.spec.name}.py"
    path = Path(name) if out is None else Path(out)
    if path.is_dir():
        path = path / name
    table = baking.known(analysis) if known is None else known
    baking.required(analysis, table)
    data = emit(analysis, table, features, untimed).encode()
    is_alike = path.is_file() and path.stat().st_size == len(data)
    if not (is_alike and path.read_bytes() == data):
        files.write(path, data)
    return path


def compile(
    spec: str | Path,
    /,
    out: str | Path | None = None,
    *,
    features: Iterable[str] | None = None,
    **overrides: object,
) -> ModuleType:
    """Compile a spec and import the module.

    spec: a path, the name of a shipped spec, or the text. out: the file or directory to write to; a
    temporary directory where it is None. features: what the module can do, some of "decode",
    "verify", "extend", "short"; all of it where None. overrides: values by dotted path,
    `**{"storage.state": "split"}`. What will disappoint, a feature too that is asked for and cannot
    be there, is a SpecWarning. Raises SpecError;
    ValueError for an unknown feature, or a file that would hide a module; LookupError for what is
    neither a file nor a shipped name; NotTuned where KVGEN_REQUIRE_TUNED is 1 and nothing is.
    """
    return _compiled(spec, out, overrides, features)


def load(name: str, /, *, features: Iterable[str] | None = None, **overrides: object) -> ModuleType:
    """Compile and import a shipped spec by name. features, overrides, errors: as for `compile`."""
    return _compiled(name, None, overrides, features)


def _compiled(
    spec: str | Path,
    out: str | Path | None,
    overrides: Mapping[str, object],
    features: Iterable[str] | None,
) -> ModuleType:
    from kvgen.codegen.features import completed

    if isinstance(spec, str) and "\n" not in spec:
        spec = shipped.resolve(spec)
    if out is not None and Path(out).suffix == ".py":
        check_free(Path(out).stem)
    # a tuple is a list in YAML
    listed = {key: list(x) if isinstance(x, tuple) else x for key, x in overrides.items()}
    analysis = analyse(spec, {key: str(value) for key, value in listed.items()})
    features = None if features is None else completed(features)
    if report := _report(analysis, features):
        # for whoever called `compile` or `load`
        warnings.warn(report, SpecWarning, stacklevel=3)
    if out is not None:
        return imported(write(analysis, Path(out), None, features))
    table = baking.known(analysis)
    baking.required(analysis, table)
    return built(analysis, table, features)


def _report(analysis: Analysis, features: Iterable[str] | None) -> str:
    """What is said of a spec, and of features that are asked for in vain."""
    from kvgen.explaining.foresight import refused

    found = (*analysis.warnings, *refused(analysis, features or ()))
    return replace(analysis, warnings=found).report if found else ""


def built(
    analysis: Analysis,
    known: Table | None = None,
    features: Iterable[str] | None = None,
    untimed: bool = False,
) -> ModuleType:
    """The module, imported from a file of its own. known, features, untimed: as `emit` has them."""
    text = emit(analysis, known, features, untimed)
    return imported(temporary_module(analysis.spec.name, text))


def temporary_module(name: str, text: str) -> Path:
    """A module's text as a file that is removed when this process ends: Triton reads its source."""
    folder = Path(tempfile.mkdtemp(prefix="kvgen-"))
    ending.at_end(partial(shutil.rmtree, folder, ignore_errors=True))
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return path


def imported(path: Path) -> ModuleType:
    """Import a generated module from its file, under a name of its own for each text."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    name = f"kvgen_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    # whatever the file's name ends in
    found = importlib.util.spec_from_file_location(
        name, path, loader=SourceFileLoader(name, str(path))
    )
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    _hash_functions(module)
    return module


def _hash_functions(module: ModuleType) -> None:
    """Have Triton hash every function, in the order of the file.

    It leaves out of a caller's hash what callees use that were not hashed before: which kernel is
    compiled first would decide under which keys all others are looked for in its cache.
    """
    for function in vars(module).values():
        getattr(function, "cache_key", None)


def _path(path_or_text: str | Path) -> str:
    is_text = isinstance(path_or_text, str) and "\n" in path_or_text
    return "<text>" if is_text else str(path_or_text)


def _text(path_or_text: str | Path) -> str:
    if isinstance(path_or_text, str) and "\n" in path_or_text:
        return path_or_text
    try:
        return source.shown(path_or_text)
    except OSError:
        return ""
