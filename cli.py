"""The command line of kvgen: parsing and printing only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvgen import __version__
from kvgen.terminal import fail, note, print_json, print_table, printable, say, working

# what a command needs is imported when it runs: `kvgen list` and `--help` answer at once
if TYPE_CHECKING:
    from kvgen.compiler import Analysis
    from kvgen.diagnostics import Diagnostic

TARGETS = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942")
BATCHES = "1,4,16,64,256"


# parsing -----------------------------------------------------------------------------------------


class Commands(click.Group):
    """Lists the commands in the order in which one needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


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
        return Path(value)


class Override(click.ParamType):
    """K=V: a key of the spec, with dots, and its value."""

    name = "override"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        key, equals, text = value.partition("=")
        if not (key and equals):
            self.fail(f"{value!r} is not K=V, as in storage.state=split", param, ctx)
        return key, text


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


spec_argument = click.argument("spec", type=SpecFile(), metavar="SPEC")
set_option = click.option(
    "--set",
    "overrides",
    type=Override(),
    multiple=True,
    metavar="K=V",
    help="Override a key of the spec, as in sizes.HV=8 or storage.state=split. May be repeated.",
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
        if package not in ("numpy", "torch", "triton"):
            raise
        fail(f"error: this needs {package}: pip install 'kvgen[run]'")


def diagnostic(d: Diagnostic, path: str) -> dict[str, Any]:
    return {
        "code": d.code,
        "message": d.message,
        "path": path,
        "line": d.span and d.span.line,
        "column": d.span and d.span.column,
        "end": d.span and d.span.end,
        "help": d.help,
        "notes": [{"message": text, **asdict(span)} for text, span in d.notes],
    }


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

    try:
        scaffold.check_name(name)
    except scaffold.ScaffoldError as error:
        raise click.BadParameter(printable(str(error)), param_hint="NAME") from None
    try:
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
        from kvgen.language import spec as specs

        read, diagnostics = specs.read(spec, dict(overrides))
        if read is None or diagnostics:
            raise SpecError(
                diagnostics, str(spec), spec.read_text(encoding="utf-8", errors="replace")
            )
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
    "--target",
    "targets",
    type=click.Choice(TARGETS),
    multiple=True,
    help="Compile the kernels for this GPU too, and show what they use. Needs triton, but no "
    "GPU. May be repeated.",
)
@json_option
def compile_(
    spec: Path,
    out: Path | None,
    overrides: tuple[tuple[str, str], ...],
    targets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the Triton module of a spec.

    The module is one readable file that runs wherever torch and triton do. It is written only if
    it differs, and not at all if the spec has an error. Printed are its records, which are what a
    token leaves in the buffer, its bytes per token, L*, the buffer length that moves the fewest,
    and how many tokens a call takes; for each --target also the registers, spills and shared
    memory of each kernel.
    """
    with errors_printed(as_json):
        from kvgen import compiler
        from kvgen.explaining import explain

        if out is not None and out.is_file() and out.samefile(spec):
            raise click.BadParameter(printable(f"'{out}' is the spec"), param_hint="'-o'")
        analysis = compiler.analyse(spec, dict(overrides))
        try:
            path = compiler.write(analysis, out)
        except OSError as error:
            place = f" to '{out}'" if out is not None else ""
            fail(printable(f"error: cannot write the module{place}: {error.strerror}"))
        rows = [("module", str(path)), *explain.summary(analysis)]
        usages = [(target, usage) for target in targets for usage in probed(analysis, target)]
    if as_json:
        print_json(
            {
                "module": str(path),
                "summary": dict(rows[1:]),
                "kernels": [{"target": target, **asdict(usage)} for target, usage in usages],
            }
        )
    else:
        print_table(rows)
        if usages:
            say("")
            print_table(
                [(t, u.kernel, u.config, u.registers, u.spills, u.shared) for t, u in usages],
                ("target", "kernel", "config", "registers", "spills", "shared"),
            )
    broken = [f"error: {t}: {u.kernel} ({u.config}): {u.error}" for t, u in usages if u.error]
    if broken:
        fail("\n".join(broken))


def probed(analysis: Analysis, target: str) -> list[Any]:
    from kvgen import compiler
    from kvgen.probing import probe

    with working(f"compiling for {target}"):
        return list(probe.probe(compiler.emit(analysis), target))


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
    and the best buffer length L*.
    """
    with errors_printed(as_json):
        from kvgen import compiler
        from kvgen.explaining import explain as explanation

        analysis = compiler.analyse(spec, dict(overrides))
        if as_json:
            print_json(explanation.data(analysis))
        else:
            say(explanation.text(analysis))


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
    help="cpu runs the kernels in Triton's interpreter, at small sizes of its own, in half a "
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
  kvgen bench kimi_delta_attention --batch 1,8,64 --layers 27 --json
  kvgen bench gated_deltanet --set storage.state=split"""
)
@spec_argument
@click.option(
    "--batch",
    "batches",
    type=Batches(),
    default=BATCHES,
    show_default=True,
    metavar="N,N,...",
    help="Batch sizes.",
)
@click.option(
    "--layers",
    type=click.IntRange(min=1),
    help="Layers with distinct states, as a model has.  [default: 36]",
)
@click.option(
    "--drafts",
    type=click.IntRange(0, 16),
    default=4,
    show_default=True,
    help="Tokens that `verify` takes at a time; 0 leaves it and `extend` out.",
)
@set_option
@json_option
def bench(
    spec: Path,
    batches: list[int],
    layers: int | None,
    drafts: int,
    overrides: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Time a spec's module on this machine's GPU.

    Whole model steps are replayed as CUDA graphs, folds included, with distinct states and moving
    cursors: `decode` is the buffered kernel, `recurrent` the plain one. Times are microseconds for
    one layer. Next to each stand the worst step, in which every row folds; its floor, the time of
    the fewest bytes; its share of the floor; and its error against float64.

    A second table has steps of several tokens, where the module takes them: `verify` beside
    `decode`, alone (cursors stay, nothing folds) and with the end of the step, all drafts accepted;
    and `extend` of 1024 tokens for 8 rows, called from the host. `token_us` is the time for each
    token.
    """
    with errors_printed(as_json):
        if best_device() == "cpu":
            fail("error: bench needs a GPU, and torch sees none")
        from kvgen import bench as benches
        from kvgen import compiler

        analysis = compiler.analyse(spec, dict(overrides))
        with working(f"timing {analysis.spec.name}") as progress:
            report = benches.bench(
                analysis, batches, layers=layers, progress=progress,
                drafts=[drafts] if drafts else [], prompts=drafts > 0,
            )  # fmt: skip
    if as_json:
        print_json(report.data())
    else:
        print_rows(report.rows)
        if report.drafts:
            say("")
            print_rows(report.drafts)


def print_rows(found: Sequence[Any]) -> None:
    """Dataclasses of one kind as a table."""
    rows = [asdict(row) for row in found]
    print_table([list(row.values()) for row in rows], list(rows[0]) if rows else ())


def main() -> None:
    cli(prog_name="kvgen")


if __name__ == "__main__":
    main()
