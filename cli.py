"""The command line of kvgen: parsing and printing only."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvgen import __version__, streams
from kvgen.benching.peers import LIBRARIES
from kvgen.codegen.features import ALL, USUAL, completed
from kvgen.terminal import fail, note, print_json, print_table, printable, say, seldom, working
from kvgen.wisdom.places import PlaceError

# what a command needs is imported when it runs: `kvgen list` and `--help` answer at once
if TYPE_CHECKING:
    from kvgen.benching.report import Report
    from kvgen.compiler import Analysis
    from kvgen.diagnostics import Diagnostic
    from kvgen.probing.probe import KernelUsage
    from kvgen.tuning.choices import Report as TuningReport
    from kvgen.tuning.plan import Options
    from kvgen.wisdom.store import Store

TARGETS = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942")
BATCHES = "1,4,16,64,256"
# the exit code of what Ctrl-C has ended, as shells have it; 1 is a failed check
INTERRUPTED = 128 + signal.SIGINT


# parsing -----------------------------------------------------------------------------------------


class Commands(click.Group):
    """Lists the commands in the order in which one needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            note("\ninterrupted")
            raise SystemExit(INTERRUPTED) from None
        except PlaceError as error:
            note(f"error: {error}")
            raise SystemExit(2) from None


class SpecFile(click.ParamType):
    """SPEC: a path, or the name of a shipped spec."""

    name = "spec"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from kvgen.shipped import UnknownSpec, resolve

        try:
            return resolve(value)
        except UnknownSpec as error:
            self.fail(printable(str(error)), param, ctx)


class Output(click.ParamType):
    """FILE or DIR: a folder, if it ends as one, is there."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if str(value).endswith(("/", os.sep)) and not Path(value).is_dir():
            self.fail(printable(f"'{value}' is not a folder"), param, ctx)
        if value == "-":
            self.fail("'-' is no file: standard output is /dev/stdout", param, ctx)
        from kvgen.scaffold import ScaffoldError, check_free

        path = Path(value)
        try:
            if path.suffix == ".py":
                check_free(path.stem)
        except ScaffoldError as error:
            self.fail(printable(str(error)), param, ctx)
        return path


class Features(click.ParamType):
    """A,B: what a module can do, with all that this needs."""

    name = "features"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        try:
            return completed(value)
        except ValueError as error:
            self.fail(printable(str(error).removeprefix("features: ")), param, ctx)


class Override(click.ParamType):
    """K=V: a key of the spec, with dots, and its value."""

    name = "override"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        key, equals, text = value.partition("=")
        if not (key and equals):
            self.fail(f"{value!r} is not K=V, as in storage.state=split", param, ctx)
        return key.strip(), text


class SpecName(click.ParamType):
    """SPEC where only its name counts: a path, a shipped name, or that of a spec that is gone and
    has left records.

    instead: what to do with what can be neither, whose name is {}, as it is typed in a shell.
    """

    name = "spec"

    def __init__(self, instead: str = "") -> None:
        self.instead = instead

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value).endswith((".yaml", ".yml")):
            from kvgen.language.names import refusal

            if refusal(value):
                text = f"'{value}' is neither the file of a spec nor a name that one can have"
                if self.instead:
                    text += f"; {self.instead.format(shlex.quote(value))}"
                self.fail(printable(text), param, ctx)
            from kvgen.shipped import UnknownSpec
            from kvgen.wisdom import account
            from kvgen.wisdom.store import Store

            try:
                return account.known(Store.default(), value)
            except UnknownSpec as error:
                self.fail(printable(str(error)), param, ctx)
        from kvgen.language import spec as specs

        read, _ = specs.read(SpecFile().convert(value, param, ctx))
        if read is None:
            self.fail(printable(f"'{value}' is no spec: kvgen show '{value}' says why"), param, ctx)
        return read.name


class Batches(click.ParamType):
    """Batch sizes with commas between them."""

    name = "batches"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        parts = value.split(",")
        if not all(re.fullmatch("[1-9][0-9]{0,6}", part) for part in parts):
            self.fail(f"{value!r} is not a list of batch sizes, as in {BATCHES}", param, ctx)
        return [int(part) for part in parts]


class Libraries(click.ParamType):
    """Names of other libraries with commas between them."""

    name = "libraries"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        parts = list(dict.fromkeys(value.split(",")))
        if not set(parts) <= set(LIBRARIES):
            self.fail(f"{value!r} is not a list of {', '.join(LIBRARIES)}", param, ctx)
        return parts


class Storage(click.ParamType):
    """A storage of Optuna's: a database's URL, or journal:PATH."""

    name = "storage"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        kind, separator, place = value.partition(":")
        if kind == "journal":
            if not place or Path(place).expanduser().is_dir():
                self.fail(f"{value!r} names no file, as in journal:PATH", param, ctx)
        elif not separator or not place.startswith("//") or kind == "redis":
            text = "is neither a database's URL, as in postgresql+psycopg://user@host/db, nor"
            self.fail(f"{value!r} {text} journal:PATH", param, ctx)
        return value


class Duration(click.ParamType):
    """A time: 90s, 5m, 1h, or a number of seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smh]?)", str(value))
        seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
        if seconds <= 0:
            self.fail(f"{value!r} is not a time, as in 90s, 5m or 1h", param, ctx)
        return seconds


spec_argument = click.argument("spec", type=SpecFile(), metavar="SPEC")
name_argument = partial(click.argument, "spec", metavar="[SPEC]", required=False)
gpu_option = click.option("--gpu", metavar="NAME", help="Only GPUs with NAME in their names.")
set_option = click.option(
    "--set",
    "overrides",
    type=Override(),
    multiple=True,
    metavar="K=V",
    help="Override a key of the spec, as in sizes.HV=8 or storage.state=split. May be repeated.",
)
batch_option = click.option(
    "--batch",
    "batches",
    type=Batches(),
    default=BATCHES,
    show_default=True,
    metavar="N,N,...",
    help="Batch sizes.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for a program to read."
)


@contextmanager
def errors_printed(as_json: bool = False) -> Iterator[None]:
    """End with exit code 1 for a spec that is wrong and for packages that are missing."""
    from kvgen.diagnostics import SpecError

    try:
        yield
    except SpecError as error:
        if as_json:
            print_json({"errors": [diagnostic(d, error.path) for d in error.diagnostics]})
        fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = {"numpy": "run", "torch": "run", "triton": "run", "optuna": "gpu"}.get(package)
        if extra is None:
            raise
        fail(f"error: this needs {package}: pip install 'kvgen[{extra}]'")


def diagnostic(d: Diagnostic, path: str) -> dict[str, Any]:
    return {
        "severity": d.severity,
        "code": d.code,
        "message": d.message,
        "path": path,
        "line": d.span and d.span.line,
        "column": d.span and d.span.column,
        "end": d.span and d.span.end,
        "help": d.help,
        "notes": [{"message": text, **asdict(span)} for text, span in d.notes],
    }


def foreseen(analysis: Analysis, asked: Sequence[str] = USUAL) -> tuple[Diagnostic, ...]:
    """What will disappoint in a spec that compiles, and in a module with these features."""
    from kvgen.explaining import foresight

    return (*analysis.warnings, *foresight.warnings(analysis, asked))


def warned(analysis: Analysis, asked: Sequence[str] = USUAL) -> None:
    """Print it."""
    from kvgen.diagnostics import render

    if found := foreseen(analysis, asked):
        note(render(found, analysis.spec.path, analysis.spec.original))


@contextmanager
def warnings_noted() -> Iterator[None]:
    """Print warnings as other notes: what is said of the store is for whoever runs the command."""
    shown = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: printable(f"warning: {message}\n")
    try:
        yield
    finally:
        warnings.formatwarning = shown


# commands ----------------------------------------------------------------------------------------


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
First steps:
  kvgen list                          what ships with kvgen
  kvgen explain gated_deltanet        what the compiler derives from it
  kvgen compile gated_deltanet        write ./gated_deltanet.py
  kvgen check gated_deltanet          run that beside the recurrence, with or without a GPU
  kvgen new mine                      start a recurrence of your own

\b
SPEC is a path or a shipped name. Results go to stdout, everything else to stderr.
Exit codes: 0 done, 1 the spec or a check failed, 2 wrong usage.""",
)
@click.version_option(__version__, prog_name="kvgen")
def cli() -> None:
    """Compile linear-attention recurrences to Triton modules for serving.

    A spec is a YAML file that holds one recurrence the way its paper writes it. kvgen derives the
    buffered form, in which the state is written only once in L tokens, and writes one importable
    module that needs torch and triton, but not kvgen.
    """


@cli.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the specs that ship with kvgen.

    Each may be named wherever a command takes SPEC, and is a good start for one of your own:
    `kvgen new mine --from NAME`.
    """
    from kvgen.shipped import shipped

    specs = shipped()
    if as_json:
        rows = [{"name": s.name, "title": s.title, "source": s.source} for s in specs]
        print_json(rows)
    else:
        print_table([(s.name, s.title, s.source) for s in specs])


@cli.command(
    epilog="""\b
Examples:
  kvgen new mine                           a commented example
  kvgen new mine --from gated_deltanet     a copy of a shipped spec
  kvgen explain mine.yaml"""
)
@click.argument("name", metavar="NAME")
@click.option("--from", "origin", type=SpecFile(), metavar="SPEC", help="Copy SPEC instead.")
def new(name: str, origin: Path | None) -> None:
    """Start a spec: write NAME.yaml here.

    It is a small recurrence that compiles as it is, with comments that say what each part means.
    NAME becomes the name of the generated module. A file that exists is never overwritten.
    """
    from kvgen import scaffold
    from kvgen.language import source

    try:
        scaffold.check_name(name)
    except scaffold.ScaffoldError as error:
        raise click.BadParameter(printable(str(error)), param_hint="NAME") from None
    try:
        if origin is not None and origin.stat().st_size > source.MAX_BYTES:
            fail(printable(f"error: '{origin}' is too long for a spec"))
        original = None if origin is None else origin.read_text(encoding="utf-8")
        path = scaffold.write(name, Path(), original)
    except (scaffold.ScaffoldError, OSError, UnicodeError) as error:
        fail(f"error: {error}")
    say(str(path))
    note(f"next: kvgen explain {path}")


@cli.command(
    epilog="""\b
Examples:
  kvgen show gated_deltanet
  kvgen show gated_deltanet --set storage.state=split > split.yaml"""
)
@spec_argument
@set_option
def show(spec: Path, overrides: tuple[tuple[str, str], ...]) -> None:
    """Print a spec in full: with all defaults, and after --set.

    What it prints is a spec itself. Its `storage` says how the state is kept (float32, bfloat16,
    float16, or split into two planes of 16 bits), its `sample` how `kvgen check` draws values.
    """
    with errors_printed():
        from kvgen.diagnostics import SpecError
        from kvgen.language import source
        from kvgen.language import spec as specs

        read, diagnostics = specs.read(spec, dict(overrides))
        if read is None or diagnostics:
            raise SpecError(diagnostics, str(spec), source.shown(spec))
        say(specs.show(read))


@cli.command(
    "compile",
    epilog="""\b
Examples:
  kvgen compile gated_deltanet
  kvgen compile mine.yaml -o src/kernels/
  kvgen compile gated_deltanet --set storage.state=split --target sm_90""",
)
@spec_argument
@click.option(
    "-o",
    "--output",
    "out",
    type=Output(),
    metavar="FILE or DIR",
    help="Where the module goes.  [default: ./NAME.py]",
)
@set_option
@click.option(
    "--with",
    "features",
    type=Features(),
    default=",".join(USUAL),
    show_default=True,
    metavar="A,B",
    help=f"What the module can do, some of {', '.join(ALL)}: single tokens, which are always "
    "there, windows of drafts, prompts, and requests without a state while they are short, which "
    "needs all the others.",
)
@click.option(
    "--target",
    "targets",
    type=click.Choice(TARGETS),
    multiple=True,
    help="Compile the kernels for this GPU too, and show what they use. Needs triton, but no "
    "GPU. May be repeated.",
)
@click.option(
    "--programs", is_flag=True, help="With --target, a row for each program and not each kernel."
)
@json_option
def compile_(
    spec: Path,
    out: Path | None,
    overrides: tuple[tuple[str, str], ...],
    features: tuple[str, ...],
    targets: tuple[str, ...],
    programs: bool,
    as_json: bool,
) -> None:
    """Write the Triton module of a spec.

    The module is one readable file that runs wherever torch and triton do. It is written only if
    it differs, and not at all if the spec has an error. Printed are its records, which are what a
    token leaves in the buffer, its bytes per token, L*, the buffer length that moves the fewest,
    how many tokens a call takes, and for which GPUs its configurations are tuned; for each --target
    also the registers, spills and shared memory of each kernel, by the program that takes most, and
    a line that says what fits, what spills and what cannot be built: then the exit code is 1. What
    will disappoint, as prompts on a slow path, is said on stderr.

    The configurations are what `kvgen wisdom` knows of every GPU. With KVGEN_REQUIRE_TUNED=1 it is
    an error where it knows of none.
    """
    with errors_printed(as_json):
        from kvgen import compiler
        from kvgen.explaining import explain
        from kvgen.probing import verdict
        from kvgen.wisdom import baking

        if out is not None and out.is_file() and out.samefile(spec):
            raise click.BadParameter(printable(f"'{out}' is the spec"), param_hint="'-o'")
        analysis = compiler.analyse(spec, dict(overrides))
        if not as_json:
            warned(analysis, features)
        tuned = baking.known(analysis)
        try:
            path = compiler.write(analysis, out, tuned, features)
        except OSError as error:
            place = f" to '{out}'" if out is not None else ""
            fail(printable(f"error: cannot write the module{place}: {error.strerror}"))
        except baking.NotTuned as error:
            fail(f"error: {error}")
        standings = baking.standings(analysis, tuned)
        lengths = any(each.buffer is not None for each in standings)
        rows = [("module", str(path)), *explain.summary(analysis, tuned=lengths, asked=features)]
        rows.append(("tuned for", baking.said(analysis, tuned)))
        usages = {target: probed(analysis, target, features) for target in dict.fromkeys(targets)}
        verdicts = {target: verdict.kernels(usages[target], target) for target in usages}
    lines = {target: verdict.line(rows, target) for target, rows in verdicts.items()}
    if as_json:
        print_json(
            {
                "module": str(path),
                "summary": dict(rows[1:]),
                "warnings": [diagnostic(d, str(spec)) for d in foreseen(analysis, features)],
                "tuned": [asdict(each) for each in standings],
                "kernels": [{"target": t, **asdict(u)} for t in usages for u in usages[t]],
                "verdicts": [
                    {"target": t, "line": lines[t], "kernels": [asdict(row) for row in verdicts[t]]}
                    for t in verdicts
                ],
            }
        )
    else:
        print_table(rows)
        for target, kernels in verdicts.items():
            say("")
            if programs:
                print_rows(usages[target])
            else:
                used = [(k.kernel, k.programs, k.registers, k.spills, k.shared) for k in kernels]
                print_table(used, (target, "programs", "registers", "spills", "shared"))
        if lines:
            say("\n".join(["", *lines.values()]))
    if broken := [target for target, rows in verdicts.items() if any(row.unfit for row in rows)]:
        fail(f"error: kernels cannot be built for {', '.join(broken)}")


def probed(analysis: Analysis, target: str, features: tuple[str, ...]) -> list[KernelUsage]:
    from kvgen import compiler
    from kvgen.kernels import capacity
    from kvgen.probing import probe, verdict

    said: set[str] = set()

    def told(usage: KernelUsage) -> None:
        """What cannot be built is said at once, for each kernel."""
        why = verdict.unfit(usage, target)
        if why and usage.kernel not in said:
            said.add(usage.kernel)
            note(f"{target}: {usage.kernel} cannot be built: {why}")

    hard = tuple(need.kernel for need in capacity.unheld(analysis.form, analysis.records))
    with working(f"compiling for {target}") as progress:
        return probe.probe(
            compiler.emit(analysis, features=features),
            target,
            progress=seldom(progress),
            told=told,
            first=hard,
        )


@cli.command(
    epilog="""\b
Examples:
  kvgen explain gated_deltanet
  kvgen explain mine.yaml --json | jq .records"""
)
@spec_argument
@set_option
@json_option
def explain(spec: Path, overrides: tuple[tuple[str, str], ...], as_json: bool) -> None:
    """Say what the compiler derives from a spec.

    The decay and what is proved of it, the reads as columns of one pass over the stored state, the
    record that a token leaves in the buffer, the fold that applies the records to the state, what
    changes where several tokens share the pass, as drafts and prompts do, bytes and operations,
    the best buffer length L*, and from which length on a context is worth a state, by bytes and by
    the times that have been tuned.
    """
    with errors_printed(as_json):
        from kvgen import compiler
        from kvgen.explaining import explain as explanation
        from kvgen.wisdom import baking, contexts

        analysis = compiler.analyse(spec, dict(overrides))
        times = contexts.timed(baking.known(analysis))
        if as_json:
            found = [diagnostic(d, str(spec)) for d in foreseen(analysis)]
            print_json({**explanation.data(analysis, times), "warnings": found})
        else:
            warned(analysis)
            say(explanation.text(analysis, times))


@cli.command(
    epilog="""\b
Examples:
  kvgen check gated_deltanet --device cpu
  kvgen check gated_deltanet --set storage.state=split
  kvgen check mine.yaml --json"""
)
@spec_argument
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="cpu runs the kernels in Triton's interpreter, at small sizes of its own, in a "
    "minute; cuda at the spec's sizes.  "
    "[default: cuda where there is one]",
)
@set_option
@json_option
def check(
    spec: Path, device: str | None, overrides: tuple[tuple[str, str], ...], as_json: bool
) -> None:
    """Check a spec's module against the recurrence itself.

    The module decodes many tokens beside the recurrence in float64: through folds, copies,
    recycled slots, padding rows, dropped steps, odd sizes and extreme decays. Prints a table of
    errors, |x - x*| / |x*|, with what each may be at most, and what was drawn; ends with exit code
    1 if an error is too large.
    """
    with errors_printed(as_json):
        if (device or best_device()) == "cpu":
            device = "cpu"
            # triton reads this when it is imported
            os.environ.setdefault("TRITON_INTERPRET", "1")
        from kvgen import compiler
        from kvgen.checking import check as checks

        analysis = compiler.analyse(spec, dict(overrides))
        try:
            with working(f"checking {analysis.spec.name}") as progress:
                report = checks.check(analysis, device or "cuda", progress=progress)
        except checks.DeviceError as error:
            fail(f"error: {error}")
    bad = [row for row in report.rows if not row.ok]
    if as_json:
        print_json(report.data())
    else:
        print_table(
            [(r.case, r.quantity, float(r.error), float(r.bound), bool(r.ok)) for r in report.rows],
            ("case", "quantity", "error", "bound", ""),
        )
        say("\ndrawn")
        print_table(list(report.drawn))
        say(f"\n{len(report.rows) - len(bad)} of {len(report.rows)} within bounds")
    if bad or not report.ok:
        fail(f"error: {len(bad)} of {len(report.rows)} checks failed")


def best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@cli.command(
    epilog="""\b
Examples:
  kvgen bench gated_deltanet
  kvgen bench gated_deltanet --against fla,sglang --html page.html
  kvgen bench kimi_delta_attention --batch 1,8,64 --layers 27 --json
  kvgen bench gated_deltanet --set storage.state=split"""
)
@spec_argument
@batch_option
@click.option(
    "--layers",
    type=click.IntRange(min=1),
    help="Layers with distinct states, as a model has.  [default: 36]",
)
@click.option(
    "--against",
    type=Libraries(),
    metavar="LIBRARY,...",
    help="Time these libraries' kernels of the same recurrence too, where they are installed: "
    f"{', '.join(LIBRARIES)}.",
)
@click.option(
    "--drafts",
    type=click.IntRange(0, 16),
    default=4,
    show_default=True,
    help="Tokens that `verify` takes at a time; 0 leaves it and `extend` out.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Write a page with figures too, which needs no other file.",
)
@set_option
@json_option
def bench(
    spec: Path,
    batches: list[int],
    layers: int | None,
    against: Sequence[str] | None,
    drafts: int,
    html: Path | None,
    overrides: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Time a spec's module on this machine's GPU.

    Whole model steps are replayed as CUDA graphs, folds included, with distinct states and moving
    cursors: `decode` is the buffered kernel, `recurrent` the plain one. Times are microseconds for
    one layer. Next to each stand the worst step, in which every row folds; its floor, the time of
    the fewest bytes; its share of the floor; and its error against float64. `between_us` is what
    it adds to a step in which a product with weights that fill the cache stands in front of every
    layer, as in a server: there no decode begins while the one before it runs.

    Kernels of other libraries take turns with them in the same process, on the same inputs and with
    states of the same precision. What cannot run here is named with the reason.

    A second table has steps of several tokens, where the module takes them: `verify` beside
    `decode`, alone (cursors stay, nothing folds) and with the end of the step, all drafts accepted;
    and `extend` of 1024 tokens for 8 rows, called from the host. `token_us` is the time for each
    token.
    """
    with errors_printed(as_json):
        if html is not None and not html.parent.is_dir():
            message = printable(f"'{html.parent}' is not a folder")
            raise click.BadParameter(message, param_hint="'--html'")
        if best_device() == "cpu":
            fail(
                "error: bench needs a GPU, and torch sees none: without one `kvgen tune` "
                "estimates, and `kvgen check --device cpu` checks"
            )
        from kvgen import bench as benches
        from kvgen import compiler

        analysis = compiler.analyse(spec, dict(overrides))
        with working(f"timing {analysis.spec.name}") as progress:
            report = benches.bench(
                analysis, batches, layers=layers, progress=progress,
                drafts=[drafts] if drafts else [], prompts=drafts > 0, against=against or (),
            )  # fmt: skip
    for absent in report.absent:
        note(f"not timed: {absent.peer}: {absent.reason}")
    if as_json:
        print_json(report.data())
    else:
        print_rows(report.rows)
        if report.drafts:
            say("")
            print_rows(report.drafts)
    if html is not None:
        write_page(report, html)


def write_page(report: Report, path: Path) -> None:
    """The report as HTML, with what the tuner's trials say of its spec on its GPU."""
    from kvgen.benching.page import page, trials
    from kvgen.wisdom.places import cache_folder

    found = trials.read(cache_folder() / "trials", report.spec, report.device)
    command = shlex.join(["kvgen", *sys.argv[1:]])
    try:
        path.write_text(page.html(report, command, found), encoding="utf-8")
    except OSError as error:
        fail(printable(f"error: cannot write the page to '{path}': {error.strerror}"))
    note(f"page: {path}")


def print_rows(found: Sequence[Any]) -> None:
    """Dataclasses of one kind as a table."""
    rows = [asdict(row) for row in found]
    print_table([list(row.values()) for row in rows], list(rows[0]) if rows else ())


@cli.command(
    epilog="""\b
Examples:
  kvgen tune gated_deltanet --gpu
  kvgen tune gated_deltanet --gpu --set storage.state=split --batch 1,8,64
  kvgen tune mine.yaml                     without a GPU: an estimate, which is not kept
  kvgen tune --gpu --effort quick          all shipped specs"""
)
@click.argument("specs", nargs=-1, type=SpecFile(), metavar="[SPEC]...")
@click.option("--gpu", is_flag=True, help="Time on this machine's GPUs.")
@batch_option
@click.option(
    "--effort",
    type=click.Choice(["quick", "full"]),
    default="full",
    show_default=True,
    help="quick times at most 40 configurations of each kernel and batch, and leaves out verify, "
    "extend and short contexts.",
)
@click.option(
    "--budget",
    type=Duration(),
    default="5m",
    show_default=True,
    metavar="TIME",
    help="The most time that one spec takes, as in 90s or 5m.",
)
@set_option
@click.option(
    "--storage",
    type=Storage(),
    metavar="URL",
    help="Where tuners on several hosts share what they measure: a database's URL as Optuna has "
    "it, or journal:PATH for a file.",
)
@click.option("--force", is_flag=True, help="Measure again what is known.")
@click.option(
    "--dry-run", is_flag=True, help="Say what --target would try if nothing were known, and end."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn.")
@click.option(
    "--only",
    multiple=True,
    metavar="KERNEL",
    help="Tune this kernel, as `kvgen wisdom` names it, and nothing else: one of those that "
    "--effort quick leaves out. May be repeated.",
)
@click.option("--ship", is_flag=True, help="Keep it in kvgen's own tuned/ (in a checkout).")
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default="sm_90",
    show_default=True,
    help="What an estimate is made for, without --gpu, and a --dry-run.",
)
@json_option
def tune(
    specs: tuple[Path, ...],
    gpu: bool,
    batches: list[int],
    effort: str,
    budget: float,
    overrides: tuple[tuple[str, str], ...],
    storage: str | None,
    force: bool,
    dry_run: bool,
    seed: int,
    only: tuple[str, ...],
    ship: bool,
    target: str,
    as_json: bool,
) -> None:
    """Find the fastest configurations of a spec's kernels on a GPU, and remember them.

    For every batch the tiles, warps and stages of each kernel, and for all of them the length of
    the buffer. What was found is kept (`kvgen wisdom`), and the next `kvgen compile` bakes it into
    the module. What is known already is answered from there.

    Configurations are compiled side by side, checked against the recurrence in float64 and timed in
    a process of their own. Interrupted, it keeps what it has measured; called again, it goes on
    from there.
    """
    with errors_printed(as_json), warnings_noted():
        from kvgen import compiler, shipped
        from kvgen.tuning import plan

        if storage is not None and (force or not gpu):
            raise click.UsageError("--storage needs --gpu, and goes without --force")
        if only and effort != "full":
            raise click.UsageError("--only needs --effort full")
        if unknown := [name for name in only if name not in plan.ALONE]:
            raise click.UsageError(f"--only {unknown[0]}: expected {', '.join(plan.ALONE)}")
        options = plan.Options(plan.distinct(batches), effort, budget, seed, force, storage, only)
        chosen = specs or tuple(shipped.resolve(each.name) for each in shipped.shipped())
        analyses = [compiler.analyse(path, dict(overrides)) for path in chosen]
        if dry_run:
            planned(analyses, options, target, as_json)
        elif gpu:
            tuned(analyses, dict(overrides), options, ship, as_json)
        else:
            estimated(analyses, options, target, as_json)


def tuned(
    analyses: list[Analysis],
    overrides: dict[str, str],
    options: Options,
    ship: bool,
    as_json: bool,
) -> None:
    """Tune on the GPU, one spec after another; keep what each has come to."""
    from kvgen.tuning import plan, report
    from kvgen.wisdom.store import Store

    store = Store.default()
    own = Store.shipped() if ship else store
    name = plan.gpu_name()
    found: list[dict[str, Any]] = []
    failed: list[str] = []
    left: list[Analysis] = []
    interrupted = False
    for analysis in analyses:
        known = None if name is None else plan.answered(analysis, options, name, store)
        if known is None or options.force:
            left.append(analysis)
            continue
        more = "--force measures again"
        if any(record.is_cut for record in known.values()):
            more += ", a larger --budget goes on where the time was up"
        note(f"{analysis.spec.name} on {name}: known already ({more})")
        if as_json:
            records = [record.data() for record in known.values()]
            found.append({"spec": analysis.spec.name, "gpu": name, "records": records})
        else:
            print_table(report.stored_rows(known), report.HEAD)
        if ship:
            try:
                added = own.add(known.values())
            except OSError as error:
                fail(f"error: {analysis.spec.name} cannot be kept: {error.strerror or error}")
            note(f"{analysis.spec.name}: kept in {added.folder} ({added.change})")
    if left:
        from kvgen.tuning.tune import Tuner, make_job
        from kvgen.tuning.workers import WorkerError

        # being asked to end is an interrupt: what was measured is kept
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        with Tuner(note) as tuner:
            for analysis in left:
                try:
                    outcome = tuner.tune(make_job(analysis, overrides), options, store)
                except WorkerError as error:
                    fail(f"error: {error}")
                except KeyboardInterrupt:
                    note(f"{analysis.spec.name}: interrupted; nothing to keep")
                    interrupted = True
                    break
                try:
                    kept = keep(outcome, own, options.force)
                except OSError as error:
                    # what is printed is all that is left of it
                    kept = f"it cannot be kept: {error.strerror or error}"
                    failed.append(f"error: {analysis.spec.name}: {kept}")
                found.append(report.data(outcome))
                if not as_json:
                    print_table(report.rows(outcome), report.HEAD)
                note(f"{analysis.spec.name}: {kept}")
                if outcome.interrupted:
                    interrupted = True
                    break
                if outcome.failed or not outcome.records:
                    failed.append(f"error: {analysis.spec.name}: {outcome.why}")
    if as_json:
        print_json(found)
    if interrupted:
        raise SystemExit(INTERRUPTED)
    if failed:
        fail("\n".join(failed))


def keep(outcome: TuningReport, store: Store, force: bool) -> str:
    """Put a report's records into the store; where, why it ended, and what to do next."""
    from kvgen import shipped

    ended = f"{outcome.why}, after {outcome.seconds:.0f} s"
    if not outcome.records:
        return f"{ended}; nothing to keep"
    # one that was cut short takes nothing's place
    keys = {record.key for record in outcome.records if not record.is_cut}
    added = store.add(outcome.records, anew=keys if force else ())
    following = shipped.command("compile", outcome.analysis.spec)
    return f"{ended}; kept in {added.folder} ({added.change}); next: {following}"


def planned(analyses: list[Analysis], options: Options, target: str, as_json: bool) -> None:
    """What would be tried."""
    from kvgen.tuning import plan, space

    rows = []
    for analysis in analyses:
        for goal in plan.goals(analysis, options):
            if goal.kernel == "buffer":
                count = most = len(space.buffers(analysis))
            else:
                count = len(space.legal(analysis, goal.kernel, target))
                most = min(count, options.timings(goal.kernel))
            rows.append((analysis.spec.name, goal.kernel, goal.batch or "all", count, most))
    head = ("spec", "kernel", "batch", "legal", "timed at most")
    if as_json:
        print_json([dict(zip(head, row, strict=True)) for row in rows])
    else:
        print_table(rows, head)


def estimated(analyses: list[Analysis], options: Options, target: str, as_json: bool) -> None:
    """What a model of the GPU thinks of what compiles for it."""
    from kvgen.tuning import estimates

    rows: list[estimates.Estimate] = []
    failed: list[str] = []
    which = f"{len(analyses)} specs" if len(analyses) > 1 else analyses[0].spec.name
    note(f"without --gpu nothing is timed: compiling {which} for an estimate for {target}")
    for analysis in analyses:
        plan = estimates.likely(analysis, options, target)
        name = analysis.spec.name
        with working(f"compiling {name}: {estimates.announced(plan)}") as progress:
            try:
                rows += estimates.estimates(analysis, plan, target, seldom(progress))
            except estimates.NoneCompiledError as error:
                failed.append(f"error: {analysis.spec.name}: {error}")
    note(f"an estimate for {target}, from compiled programs and a model: nothing was timed or kept")
    if as_json:
        print_json([asdict(row) for row in rows])
    elif rows:
        print_rows(rows)
    if failed:
        fail("\n".join(failed))


# the store ---------------------------------------------------------------------------------------


@cli.group(
    cls=Commands,
    epilog="""\b
Examples:
  kvgen wisdom show gated_deltanet
  kvgen wisdom why gated_deltanet --gpu H100
  kvgen wisdom export > mine.json          then, elsewhere: kvgen wisdom import mine.json""",
)
def wisdom() -> None:
    """Show and exchange what has been tuned.

    A record is the fastest known configuration of a kernel, for a form, a GPU and a batch. `kvgen
    tune` adds them, `kvgen compile` puts those of a spec's form into its module. They lie in
    folders, of which the first that can answer does: those that KVGEN_WISDOM names, the user's own,
    and what ships with kvgen. Results go to the first of them.
    """


@wisdom.command("show")
@name_argument(type=SpecName())
@gpu_option
@json_option
def wisdom_show(spec: str | None, gpu: str | None, as_json: bool) -> None:
    """List the records of a spec, or all.

    The times are microseconds for a layer and a model step; `floor` is what the fewest bytes would
    take, as a share of that; `form` says how the state is kept. Two rows with one key come from two
    folders: the first that was not cut short is used.
    """
    from kvgen import compiler, shipped
    from kvgen.wisdom import account
    from kvgen.wisdom.store import Store

    store = Store.default()
    found = account.described(account.held(store, spec, gpu), compiler.analyse)
    if as_json:
        print_json([each.data() for each in found])
        return
    print_table([each.row() for each in found], account.HEAD)
    if not found:
        whose, name = (f" of {spec}", shipped.argument(spec)) if spec else ("", "SPEC")
        where = f" for a GPU with {gpu!r} in its name" if gpu else ""
        note(f"no records{whose}{where}: kvgen tune {name} --gpu")
    for folder in store.folders:
        note(f"{folder.name}: {folder.root}")


@wisdom.command(
    "why",
    epilog="""\b
Examples:
  kvgen wisdom why gated_deltanet --gpu H100 --batch 48
  kvgen wisdom why gated_deltanet --set storage.state=split""",
)
@spec_argument
@click.option("--gpu", metavar="NAME", help="GPUs with NAME in their names.  [default: all known]")
@batch_option
@set_option
@json_option
def wisdom_why(
    spec: Path,
    gpu: str | None,
    batches: list[int],
    overrides: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Say what answers for each kernel of a spec, and why nothing better does.

    exact: tuned for this. aged: the same, with another Triton; it is used, and may be tuned again.
    seed: tuned for another batch or share of the heads; a search starts from it, and a module takes
    the nearest batch that is tuned. estimate: nothing is known. Below stand the records that come
    nearest, with what keeps them from being an answer.
    """
    with errors_printed(as_json):
        from kvgen import compiler, shipped
        from kvgen.wisdom import account
        from kvgen.wisdom.store import Store

        analysis = compiler.analyse(spec, dict(overrides))
        store = Store.default()
        names = account.gpus(store, gpu)
        found = list(account.reasons(store, analysis, names, batches))
    if as_json:
        print_json([each.data() for each in found])
        return
    if not found:
        hint = shipped.command("tune", analysis.spec, "--gpu")
        note(f"no GPU is known: {hint}, or name one with --gpu")
    head = ("GPU", "kernel", "batch", "answer", "configuration")
    print_table(account.rows(found), head)
    if near := account.nearest(found):
        say("\nnearest")
        print_table(near, ("GPU", "kernel", "spec", "configuration", "but"))


@wisdom.command("merge")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="A B…")
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where the result goes.",
)
def wisdom_merge(sources: tuple[Path, ...], out: Path) -> None:
    """Merge exports, or folders of the store, and write the result to a file, which is replaced.

    Of each key the better record stays: more effort, then a newer Triton, then a lower median. The
    order of the sources does not matter.
    """
    from kvgen.wisdom import exchange

    try:
        records = exchange.merged([exchange.read(source) for source in sources])
        exchange.write(out, records)
    except exchange.ExchangeError as error:
        fail(f"error: {error}")
    except OSError as error:
        fail(f"error: cannot write '{out}': {error.strerror}")
    say(f"{len(records)} records in {out}")


@wisdom.command(
    "export",
    epilog="""\b
Examples:
  kvgen wisdom export --gpu H100 > h100.json
  kvgen wisdom export gated_deltanet > mine.json""",
)
@name_argument(type=SpecName("records go to stdout: kvgen wisdom export > {}"))
@gpu_option
def wisdom_export(spec: str | None, gpu: str | None) -> None:
    """Print records for another machine: all but what ships with kvgen."""
    from kvgen.wisdom import account, exchange
    from kvgen.wisdom.document import text_of
    from kvgen.wisdom.store import Store

    held = [each for each in account.held(Store.default(), spec, gpu) if each.folder.ours]
    records = exchange.merged([[each.record] for each in held])
    click.echo(text_of(records), nl=False)
    note(f"{len(records)} records")


@wisdom.command("import")
@click.argument("file", type=click.Path(exists=True, path_type=Path), metavar="FILE")
def wisdom_import(file: Path) -> None:
    """Add the records of an export, all of them or none.

    A record that is there already stays if it is the better one. Printed is how many were +added,
    how many ~replaced another, and how many were =kept as they are.
    """
    from kvgen.wisdom import exchange
    from kvgen.wisdom.store import Store

    try:
        added = Store.default().add(exchange.read(file))
    except exchange.ExchangeError as error:
        fail(f"error: {error}")
    except OSError as error:
        fail(f"error: cannot write wisdom: {error.strerror or error}")
    say(f"{added.change} in {added.folder}")


@wisdom.command("forget")
@name_argument(type=SpecName())
@click.option("--gpu", metavar="NAME", help="Those of GPUs with NAME in their names.")
@click.option("--all", "every", is_flag=True, help="All.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def wisdom_forget(spec: str | None, gpu: str | None, every: bool, yes: bool) -> None:
    """Remove records: those of a spec, of a GPU, or all.

    Only from the folder that results go to; what other folders hold answers from then on.
    """
    if every == bool(spec or gpu):
        raise click.UsageError("name a SPEC or --gpu NAME, or give --all")
    from kvgen.wisdom import account
    from kvgen.wisdom.record import Record
    from kvgen.wisdom.store import Store

    def gone(record: Record) -> bool:
        return account.is_chosen(record, spec, gpu)

    store = Store.default()
    count = sum(map(gone, store.own.records()))
    if not count:
        fail(f"no such records in {store.own.root}")
    if not yes:
        click.confirm(f"forget {count} records in {store.own.root}?", abort=True, err=True)
    try:
        say(f"{store.forget(gone)} records forgotten")
    except OSError as error:
        fail(f"error: cannot change {store.own.root}: {error.strerror or error}")


def main() -> None:
    with warnings_noted():
        try:
            cli(prog_name="kvgen")
        except OSError as error:
            fail(f"error: {streams.problem(error)}")


if __name__ == "__main__":
    main()
