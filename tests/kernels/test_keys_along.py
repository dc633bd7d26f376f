"""A decode that has some of a row's keys along its threads and the others in their registers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twins import analysed, made, within

from kvgen import compiler
from kvgen.checking.twin import Made, Twin
from kvgen.codegen.operands import ALONG, parts_keys
from kvgen.kernels.decode import DECODE
from kvgen.wisdom.reading import from_data
from kvgen.wisdom.store import Store

# one key head to several value heads, decays by channel, writes and reads over V, several writes,
# a carried vector over K
NAMES = ["gated_deltanet", "kimi_delta_attention", "gated_oja", "gated_deltaproduct", "mlstm"]
OTHERS = ["rwkv7", "gla", "mamba2", "rwkv6", "preconditioned_gated_deltanet", "lightnet"]
INVENTIONS = Path(__file__).parents[1] / "inventions"
# how far outputs are off for states that are rounded to 16 bits, whatever reads them
ROUNDED = 1e-2
Along = Callable[..., Twin]


@pytest.fixture
def along(monkeypatch: pytest.MonkeyPatch) -> Along:
    """Twins whose decodes have so many keys along their threads. dots: whether tensor cores read
    the state, where that can be."""

    def of(keys: int, model: Made, dots: int | None = None, **options: Any) -> Twin:
        table: Any = model.module.CONFIGS["default"]["decode"]
        for config in table.values():
            monkeypatch.setitem(config, "KEYS", keys)
            if dots is not None:
                assert "DOT" in config
                monkeypatch.setitem(config, "DOT", dots)
        return Twin(model, "cpu", **{"buffer": 4, "layers": 1, **options})

    return of


def decoded(pair: Twin, *outputs: float) -> None:
    pair.admit([0, 1, 2, 4])
    for step in range(9):
        pair.step([4, 0, 2] if step % 3 else [1, 0])
    pair.compare()
    within(pair, *outputs)


@pytest.mark.parametrize("layout", ["kv", "vk"])
@pytest.mark.parametrize("name", NAMES)
def test_the_recurrence_is_what_it_was(name: str, layout: str, along: Along) -> None:
    decoded(along(ALONG, made(name, f"layout={layout}", K=64), slots=5))


@pytest.mark.parametrize("dots", [0, 1])
@pytest.mark.parametrize("keys", [0, ALONG])
@pytest.mark.parametrize("state", ["bfloat16", "split"])
def test_so_is_one_that_tensor_cores_may_read(
    state: str, keys: int, dots: int, along: Along
) -> None:
    """Behind convolutions, whose columns are no inputs."""
    model = made("gated_deltanet_conv", "layout=vk", f"state={state}", K=64)
    decoded(along(keys, model, dots, slots=5), ROUNDED)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["kv", "vk"])
@pytest.mark.parametrize("name", OTHERS)
def test_so_is_that_of_others(name: str, layout: str, along: Along) -> None:
    decoded(along(ALONG, made(name, f"layout={layout}", K=64), slots=5))


@pytest.mark.parametrize("layout", ["kv", "vk"])
def test_a_state_that_is_joined_of_two_planes(layout: str, along: Along) -> None:
    """As what is read is carried on, all that is kept is read."""
    storage = {"storage.state": "split", "storage.layout": layout, "sizes.K": "48"}
    analysis = compiler.analyse(INVENTIONS / "echo.yaml", storage)
    assert "KEYS" in compiler.emit(analysis, {}, ("decode",)) and analysis.form.carries_read
    decoded(along(ALONG, Made(analysis, compiler.built(analysis)), slots=5))


@pytest.mark.parametrize("keys", [16, 32, 64])
def test_keys_that_fill_no_power_of_two(keys: int, along: Along) -> None:
    decoded(along(keys, made("gated_deltanet", "layout=vk", K=48, V=12), slots=5))


def test_who_may_have_them() -> None:
    def offered(*storage: str, **sizes: int) -> bool:
        form = analysed("gated_deltanet", *storage, **sizes).form
        config = {**dict.fromkeys(DECODE.knobs, 1), "STAGES": 1, "DOT": 0, "KEYS": ALONG}
        return DECODE.is_safe(form, config)

    assert offered(K=64) and offered("layout=vk", K=128)
    # tensor cores add up over keys there
    assert not offered("state=bfloat16", K=64) and not offered("state=bfloat16", "layout=vk", K=64)
    # and may do so behind convolutions, where keys lie in rows of the state
    for layout in ("kv", "vk"):
        convolved = analysed("gated_deltanet_conv", "state=bfloat16", f"layout={layout}", K=64).form
        assert parts_keys(convolved) == (layout == "vk")
    # there are no more keys than lie along threads anyway
    assert not offered(K=ALONG)
    plain = made("gated_deltanet", "state=bfloat16").module.CONFIGS["default"]["decode"]
    assert all("KEYS" not in config for config in plain.values())


def test_others_are_as_they_were() -> None:
    """A key is one number where a decode multiplies on tensor cores."""
    text = compiler.emit(analysed("gated_deltanet", "state=bfloat16", K=64), {}, ("decode",))
    assert "KEYS: tl.constexpr" not in text and "key = tl.arange(0, 64)\n" in text


def test_records_from_before_it_are_what_they_were() -> None:
    shipped = [each for folder in Store.default().folders for each in folder.records()]
    record = next(
        each for each in shipped if each.key.kernel == DECODE.name and not each.config["KEYS"]
    )
    data = record.data()
    assert data["config"].pop("KEYS") == 0
    assert from_data(data, record.spec) == record
