"""A form and its records as the text of a module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records, plan_records
from kvgen.codegen.config import Tuned, configs_text, legend
from kvgen.codegen.context import context_of, features_of, paged_of, scheduled_of, windows_of
from kvgen.codegen.features import ALL
from kvgen.codegen.literals import escaped
from kvgen.codegen.scheduled import Schedule, Scheduled
from kvgen.codegen.signatures import choices_of, facts_of, short_signatures, signatures_of
from kvgen.codegen.table import table_text
from kvgen.rendering import inlined
from kvgen.rendering.environment import environment
from kvgen.rendering.wrapping import wrapped

# the templates that call the runtime
SPOKEN = ("calls.py.jinja", "reference.py.jinja", "table.py.jinja")


def render(
    form: Form,
    records: Records,
    form_text: str,
    tuned: Tuned,
    features: tuple[str, ...],
    schedule: Schedule,
) -> str:
    """The module's text: what is the same gives the same bytes. features: what it can do.
    schedule: gives the kernels whose lines it lays out, by name."""
    scheduled = schedule(form, records)
    context = context_of(form, records, tuned, scheduled)
    context |= windows_of(form, records, context, scheduled) | features_of(form, features)
    context |= scheduled_of(form, context, scheduled)
    signatures = signatures_of(context)
    more = facts_of(form, context) | choices_of(form, context)
    context["table"] = table_text(form, records, signatures, more, context["fresh"])
    kernels = {*signatures, *(context["features"])}
    context["configs"] = configs_text(tuned.configs, kernels)
    context["legend"] = legend(context["configs"])
    context |= _short(form, records, tuned, schedule, scheduled, dict(context))
    # what speaks of the runtime, which says what of it the module has
    spoken = [environment().get_template(name).render(context) for name in SPOKEN]
    context["host"] = inlined.host(context["features"], "\n".join(spoken))
    text = _spaced(environment().get_template("module.py.jinja").render(context))
    lines = [part for line in text.splitlines() for part in wrapped(line)]
    # not broken, whatever stands in it
    lines[lines.index('FORM = ""')] = f'FORM = """\\\n{escaped(form_text)}"""'
    return "".join(f"{line}\n" for line in lines)


def _short(
    form: Form,
    records: Records,
    tuned: Tuned,
    schedule: Schedule,
    scheduled: Mapping[str, Scheduled],
    context: dict[str, Any],
) -> dict[str, object]:
    """What a cache of short contexts adds, as text: its records and states lie in pages.

    Keys are recorded with each token's own decay there: a row holds more of them than a running sum
    is safe for.
    """
    if "short" not in context["features"]:
        return {}
    plain = form
    if form.factored:
        plain = replace(form, factored=None)
        records = plan_records(plain)
        kept = ("features", "without_short", "rows_helpers", *(f"has_{name}" for name in ALL))
        same = {name: context[name] for name in kept}
        scheduled = schedule(plain, records)
        context = context_of(plain, records, tuned, scheduled) | same
    context |= paged_of(plain, records, context, scheduled)
    short = context["short"]
    written = [short[name] for name in ("decode", "verify", "extend")]
    env = environment()
    names = ("short.py.jinja", "short_decode.py.jinja", "short_window.py.jinja")
    kernels = [env.get_template(name).render(context) for name in names]
    more = facts_of(plain, context)
    # what is tuned holds for the records of a cache without short contexts
    more |= {"short_buffer": context["buffer"]} if form.factored else {}
    table = table_text(plain, records, short_signatures(context), more, context["fresh"])
    return {
        "short_kernels": "".join(kernels),
        "short_table": table,
        "short": short,
        "rows_helpers": context["rows_helpers"].union(*(each.helpers for each in written)),
        "helpers": context["helpers"].union(*(each.functions for each in written)),
    }


def _spaced(text: str) -> str:
    """Two blank lines around every top-level definition, one before a method."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("        "):
            lines.append(line)
            inside = True
            continue
        opens = line.startswith(("@", "def ", "class ", "# -- "))
        opens = opens or (inside and line[:1] not in ("", " ", ")", "]", "}"))
        inside = line.startswith(" ") if line else inside
        method = line.startswith(("    def ", "    @"))
        wanted = 2 if opens else 1 if method else 0
        decorated = lines and lines[-1].lstrip().startswith("@")
        if wanted and not decorated:
            while lines and not lines[-1]:
                lines.pop()
            lines += [""] * wanted
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines) + "\n"
