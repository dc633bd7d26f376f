"""Records: merging them, writing them as text, and reading text that anyone may have written."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuned_records import H100, H200, key, record

from kvgen.compiler import analyse
from kvgen.kernels.decode import DECODE
from kvgen.shipped import resolve, shipped
from kvgen.wisdom.document import parsed, text_of
from kvgen.wisdom.identity import form_hash
from kvgen.wisdom.reading import RecordError, from_data
from kvgen.wisdom.record import EFFORTS, Record, bucket, merge, version


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Few keys and few values of everything, so that records compete for a key and are close."""
    gpu = draw(st.sampled_from([H100, H200]))
    of = key(draw(st.sampled_from(["decode", "fold"])), draw(st.sampled_from([1, 4])), gpu=gpu)
    return record(
        of,
        draw(st.sampled_from([12.0, 12.5]) | st.floats(1.5, 1e6)),
        spec=draw(st.sampled_from(["mine", "yours"])),
        config={"TILE": draw(st.sampled_from([4, 8, 16]))},
        effort=draw(st.sampled_from(EFFORTS)),
        env=draw(st.sampled_from([{}, {"triton": "3.6.0"}, {"triton": "3.10.0+git1"}])),
        runner_up=draw(st.none() | st.just(({"TILE": 4}, 3.0))),
        error=draw(st.sampled_from([0.0, 1e-3])),
        at=draw(st.sampled_from([{}, {"batch": 3}, {"batch": 4}, {"batch": 4, "cut": 1}])),
    )


several = st.lists(records(), max_size=6)


# merging -----------------------------------------------------------------------------------------


def test_the_order_of_a_files_constants_makes_no_difference() -> None:
    whole = record(runner_up=(record().config, 13.0))
    data = {"spec": "mine", **whole.data()}
    backwards = json.loads(json.dumps(data, sort_keys=True))
    for read in (from_data(data, "mine"), from_data(backwards, "mine")):
        assert read.runner_up is not None
        assert list(read.config) == list(read.runner_up[0]) == list(DECODE.knobs)


def backwards(data: Any) -> Any:
    """The same JSON with all tables the other way round."""
    if isinstance(data, dict):
        return {name: backwards(data[name]) for name in reversed(data)}
    return [backwards(each) for each in data] if isinstance(data, list) else data


def test_equal_records_are_alike_to_the_last_byte() -> None:
    """Whichever comes first, and whatever the order of keys and the spelling of numbers."""
    env = {"cuda": "13.0", "torch": "2.11", "rocm": "7", "triton": "3.6.0"}
    at = {"layers": 36, "cut": 1, "batch": 4}
    whole = record(at=at, env=env, error=0.0, runner_up=(record().config, 13.0))
    text = json.dumps(backwards({"spec": "mine", **whole.data()}))
    text = text.replace('"error": 0.0', '"error": -0.0').replace("[11.0, 12.0,", "[11, 1.2e1,")
    text = text.replace('"mine"', r'"\u006dine"')
    other = from_data(json.loads(text))
    made = Record(**{**vars(whole), "us": (11, 12, 13), "env": backwards(env), "error": -0.0})
    for one, two in ((whole, other), (other, made), (whole, made)):
        assert one == two
        assert text_of(merge([one], [two])) == text_of(merge([two], [one])) == text_of([whole])
    assert list(other.env) == ["triton", "torch", "cuda", "rocm"]
    assert list(other.at) == ["batch", "layers", "cut"]


@given(several, several)
def test_merge_is_commutative(a: list[Record], b: list[Record]) -> None:
    assert merge(a, b) == merge(b, a)
    assert text_of(merge(a, b)) == text_of(merge(b, a))


@given(several, several, several)
def test_merge_is_associative(a: list[Record], b: list[Record], c: list[Record]) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(several, several)
def test_merge_is_idempotent(a: list[Record], b: list[Record]) -> None:
    both = merge(a, b)
    assert merge(both, a) == merge(both, both) == both


@given(several, several)
def test_merge_keeps_one_record_of_every_key(a: list[Record], b: list[Record]) -> None:
    both = merge(a, b)
    assert {each.key for each in both} == {each.key for each in [*a, *b]}
    assert len({each.key for each in both}) == len(both)
    assert all(each in [*a, *b] for each in both)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"effort": "full", "us": 20.0}, {"effort": "quick", "us": 10.0}),
        ({"env": {"triton": "3.10.0"}, "us": 20.0}, {"env": {"triton": "3.9.0"}}),
        ({"env": {"triton": "3.6"}, "us": 20.0}, {"env": {}}),
        ({"us": 20.0}, {"at": {"batch": 4, "cut": 1}}),
        ({"us": 20.0}, {"at": {"batch": 4, "cut": 1}, "env": {"triton": "3.10.0"}}),
        ({"us": 20.0, "at": {"batch": 4}}, {"at": {"batch": 3}}),
        ({"us": 11.0, "config": {"TILE": 8}}, {"us": 12.0, "config": {"TILE": 4}}),
        ({"config": {"TILE": 4}, "date": "b"}, {"config": {"TILE": 8}, "date": "a"}),
        ({"date": "2026-01-01"}, {"date": "2026-01-02"}),
    ],
)
def test_what_is_better(better: dict[str, Any], worse: dict[str, Any]) -> None:
    good, bad = (record(key(), **each) for each in (better, worse))
    assert merge([good], [bad]) == merge([bad], [good]) == [good]


def test_versions_and_buckets() -> None:
    assert version("3.10.0+git1a") == (3, 10, 0) > version("3.9.2")
    assert version(None) == version("unknown") == (0, 0, 0)
    assert [bucket(n) for n in (1, 2, 3, 5, 64, 65)] == [1, 2, 4, 8, 64, 128]


# text --------------------------------------------------------------------------------------------


@given(several, st.booleans())
def test_text_and_back(some: list[Record], named: bool) -> None:
    if named:
        some = [replace(each, spec="mine") for each in some]
    text = text_of(some, "mine" if named else None)
    document = parsed(text.encode())
    assert document.problem is None and list(document.records) == merge(some, ())
    # one record a line, and the same text from whatever order
    assert text.count("\n") == len(document.records) + (2 if some else 3)
    assert text_of(reversed(some), "mine" if named else None) == text


@given(several, st.integers(0))
def test_a_torn_text_keeps_its_whole_records(some: list[Record], at: int) -> None:
    data = text_of(some).encode()
    torn = data[: at % len(data)]
    document = parsed(torn)
    assert document.problem is not None or torn.strip() == data.strip()
    known = merge(some, ())
    # all but what the tear went through
    lines = torn.count(b"\n") - 1
    assert list(document.records[:lines]) == known[: len(document.records[:lines])]
    assert len(known) >= len(document.records) >= min(lines, len(known))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    document = parsed(data)
    assert document.records == () and (document.problem is not None or document.is_future)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
PATHS = [
    *(("us",), ("us", 0), ("us", 1), ("config",), ("config", "TILE"), ("runner_up",), ("error",)),
    *(("key",), ("key", "gpu"), ("key", "form"), ("key", "shape"), ("key", "shape", "B")),
    *(("key", "kernel"), ("key", "dtype"), ("effort",), ("env",), ("at",), ("date",), ("spec",)),
]


@given(st.sampled_from(PATHS), JSON)
def test_a_damaged_record_is_refused_or_whole(path: tuple[Any, ...], value: Any) -> None:
    data = json.loads(json.dumps({"spec": "mine", **record().data()}))
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    try:
        found = from_data(data)
    except RecordError as error:
        assert str(error)
        return
    assert from_data({"spec": found.spec, **json.loads(json.dumps(found.data()))}) == found


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("spec",), "../../evil", "spec is '../../evil'"),
        (("key", "gpu"), 'x"\nimport os', "gpu is"),
        (("key", "kernel"), "prefill", "expected one of decode, recurrent"),
        (("key", "shape", "B"), 3, "expected a power of two"),
        (("key", "form"), "ABC", "form is 'ABC'"),
        (("config", "TILE"), 24, "config TILE is 24, expected a power of two"),
        (("config", "TILE"), True, "config TILE is True"),
        (("config", "num_warps"), 0, "config num_warps is 0"),
        (("config",), {}, "config is empty"),
        (("us", 1), 1e9, "expected positive times in order"),
        (("us",), [1.0], "expected three times"),
        (("error",), float("nan"), "error is nan"),
        (("effort",), "exhaustive", "effort is 'exhaustive'"),
        (("key", "gpu"), "default", "gpu is 'default', expected the name of a GPU"),
        (("key", "gpu"), "", "gpu is '', expected 1 to 200 printable characters"),
        (("key", "gpu"), "  ", "gpu is '  ', expected more than spaces"),
        (("key", "gpu"), "x" * 201, "expected 1 to 200 printable"),
        (("key", "shape", "B"), 0, "shape B is 0, expected an integer from 1 to 16777216"),
        (("key", "shape", "B"), -4, "shape B is -4, expected an integer from 1"),
        (("key", "shape", "B"), 1 << 25, "shape B is 33554432, expected an integer from 1"),
        (("key", "shape", "B"), 4.0, "shape B is 4.0, expected an integer"),
        (("key", "shape", "B"), True, "shape B is True, expected an integer"),
        (("key", "shape", "T"), 2, "shape T is 2, expected 1"),
        (("key", "shape", "T"), 0, "shape T is 0, expected 1"),
        (("key", "shape", "H"), 0, "shape H is 0, expected an integer from 1 to 65536"),
        (("key", "shape", "HV"), 3, "shape HV is 3, expected a multiple of H, which is 2"),
        (("key", "shape", "K"), 1 << 17, "shape K is 131072, expected"),
        (("key", "shape", "W"), 1, "shape has 'W', expected of B, T, H, HV, K, V alone"),
        (("key", "layout"), "kv", "key has 'layout', expected of kernel,"),
        (("more",), 1, "a record has 'more', expected of spec, key,"),
        (("config", "TILE"), 0, "config TILE is 0, expected a power of two from 1 to 65536"),
        (("config", "num_warps"), 3, "num_warps is 3, expected a power of two from 1 to 32"),
        (("config", "num_warps"), 64, "config num_warps is 64"),
        (("config", "STAGES"), 0, "config STAGES is 0, expected an integer from 1 to 16"),
        (("config", "TILES"), 0, "config TILES is 0"),
        (("config", "PDL"), 2, "config PDL is 2, expected an integer from 0 to 1"),
        (("config", "DOT"), -1, "config DOT is -1"),
        (("config", "TILE"), 8.0, "config TILE is 8.0, expected an integer"),
        (("config", "TILE"), None, "config TILE is missing"),
        (("us",), [-1.0, 2.0, 3.0], "us is -1.0, expected a number >= 0"),
        (("us",), [0.0, 0.0, 0.0], "expected positive times in order"),
        (("us",), [1.0, 2.0, float("inf")], "us is inf, expected a number >= 0 and <= 1e+12"),
        (("us",), [1.0, float("nan"), 3.0], "us is nan"),
        (("us",), [True, 2.0, 3.0], "us is True, expected a number"),
        (("us",), [5e-324, 1.0, 2.0], "expected positive times in order"),
        (("floor_us",), float("inf"), "floor_us is inf"),
        (("floor_us",), -1.0, "floor_us is -1.0"),
        (("error",), -1e-3, "error is -0.001"),
        (("measured",), -1, "measured is -1"),
        (("of",), "all", "of is 'all'"),
        (("runner_up",), {"config": {"TILE": 3}, "us": 1.0}, "runner_up config TILE is 3"),
        (("runner_up",), {"config": {"TILE": 4}, "us": 0}, "runner_up us is 0, expected"),
        (("at", "batch"), -1, "at batch is -1"),
        (("at", "rows"), 1, "at has 'rows', expected of batch, buffer, layers, cut alone"),
        (("env", "triton"), "", "env triton is ''"),
        (("env",), {str(i): "1" for i in range(40)}, "env has 40 entries"),
        (("date",), "\x1b[2J", "date is '\\x1b[2J', expected a date"),
        (("storage",), {"state": "\n"}, "storage state is '\\n'"),
    ],
)
def test_what_is_wrong_with_a_record(path: tuple[Any, ...], value: Any, says: str) -> None:
    data = json.loads(json.dumps({"spec": "mine", **record().data()}))
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(RecordError) as error:
        from_data(data)
    assert says in str(error.value)


def test_other_kernels_have_other_shapes() -> None:
    for of in (key("verify", tokens=16), key("chain", tokens=4), key("extend", 8, tokens=1024)):
        assert from_data(json.loads(json.dumps({"spec": "mine", **record(of).data()}))).key == of
    for of, says in (
        (key("buffer", 4), "shape B is 4, expected 0"),
        (key("verify", tokens=32), "shape T is 32, expected an integer from 1 to 16"),
        (key("extend", 8, tokens=1 << 21), "shape T is 2097152"),
    ):
        with pytest.raises(RecordError, match=says):
            from_data({"spec": "mine", **json.loads(json.dumps(record(of).data()))})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"kvgen_wisdom": true, "records": []}', "it is no kvgen wisdom"),
        ('{"kvgen_wisdom": 1, "records": [], "records": []}', "'records' stands twice"),
        ('{"kvgen_wisdom": 1}', "no list of records"),
    ],
)
def test_what_is_wrong_with_a_document(text: str, says: str) -> None:
    problem = parsed(text.encode()).problem
    assert problem is not None and says in problem


def test_a_name_that_stands_twice_in_a_record() -> None:
    text = text_of([record(), record(key(batch=16))], "mine")
    document = parsed(text.replace('"error": 0.001', '"error": 0.1, "error": 0.001', 1).encode())
    assert document.problem == "'error' stands twice in a table"
    assert [each.key.shape.B for each in document.records] == [16]


# forms -------------------------------------------------------------------------------------------

SPEC = """
kvgen: 1
name: mine
sizes: {H: 2, HV: 4, K: 16, V: 16}
inputs:
  q: [H, K]
  k: [H, K]
  v: [HV, V]
  g: [HV]
state:
  S: [HV, K, V]
step: |
  S = exp(-exp(g)) * S + outer(k, v)
  o = (q * 0.25) @ S
"""


def hashed(text: str, **overrides: str) -> str:
    return form_hash(analyse(text, overrides))


def test_names_and_head_counts_play_no_part() -> None:
    other = SPEC.replace("mine", "yours").replace("q: [", "query: [").replace("(q *", "(query *")
    other = other.replace("  g: [", "  gate: [").replace("exp(g)", "exp(gate)")
    other = other.replace("S", "M").replace("outer(k, v)", "outer(k, v)   # as in the paper")
    assert hashed(other) == hashed(SPEC)
    titled = SPEC.replace("name: mine", "name: mine\ntitle: Of my own\nsource: nowhere")
    assert hashed(titled) == hashed(SPEC)
    assert hashed(SPEC, **{"sizes.H": "8", "sizes.HV": "16"}) == hashed(SPEC)
    assert hashed(SPEC, buffer="4") == hashed(SPEC)
    # rounding a number takes no time that tells kernels apart
    assert hashed(SPEC.replace("outer(k, v)", "outer(k, rounded(v))")) == hashed(SPEC)
    # what is declared and not used is not in the form
    assert hashed(SPEC.replace("  g: [HV]", "  g: [HV]\n  unused: [K]")) == hashed(SPEC)


@pytest.mark.parametrize(
    "change",
    [
        ("0.25", "0.5"),
        ("q * 0.25", "k * 0.25"),
        ("exp(-exp(g))", "exp(-softplus(g))"),
        ("g: [HV]", "g: [HV, K]"),
        ("g: [HV]", "g: [H]"),
        ("outer(k, v)", "outer(k, v) + outer(q, v)"),
        ("K: 16", "K: 32"),
        ("V: 16", "V: 8"),
        ("H: 2", "H: 4"),
    ],
)
def test_everything_else_does(change: tuple[str, str]) -> None:
    assert change[0] in SPEC and hashed(SPEC.replace(*change, 1)) != hashed(SPEC)


def test_storage_tells_forms_apart() -> None:
    modes = [
        {"storage.state": state, "storage.records": kept, "storage.layout": layout}
        for state in ("float32", "bfloat16", "float16", "split")
        for kept in ("float32", "input")
        for layout in ("kv", "vk")
    ]
    assert len({hashed(SPEC, **mode) for mode in modes}) == len(modes)


def test_shipped_forms_differ() -> None:
    names = [spec.name for spec in shipped()]
    assert len({form_hash(analyse(resolve(name))) for name in names}) == len(names)


def test_a_long_form_takes_linear_time() -> None:
    """Forty squarings are forty nodes, and a trillion when written out."""
    lines = "".join("  g = g*g + g\n" for _ in range(40))
    assert hashed(SPEC.replace("step: |\n", f"step: |\n{lines}")) != hashed(SPEC)
