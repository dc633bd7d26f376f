"""Where values are not checked, calls with `out` given allocate nothing and look at no values: of
torch they use views alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from twins import ids, made

from kvgen.checking.samples import Sampler

VIEWS = ("select", "view", "detach", "alias", "unsqueeze", "slice")


class Seen(TorchDispatchMode):
    """Which of torch's operations are run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(function).split(".")[1])
        return function(*args, **(kwargs or {}))


class Nothing:
    """A kernel that does nothing."""

    def __getitem__(self, _: object) -> Any:
        return lambda *_, **__: None


@pytest.mark.parametrize("kind", ["whole", "apart", "short"])
@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm"])
def test_calls_allocate_nothing(name: str, kind: str, monkeypatch: Any) -> None:
    built = made(name)
    module, sampler = built.module, Sampler(built.analysis.spec, "cpu", 1)
    options = {"device": "cpu", "dtype": torch.float32, "buffer": 6, "window": 2}
    cache = module.Cache.empty(4, 1, **options, short_context=16 if kind == "short" else 0)
    if kind == "short":
        cache.reserve(range(4), 40)
    if kind == "apart":
        names = [held.name for held in module.Cache.table.held]
        lists = {each: list(cache.tensors[each].unbind(1)) for each in names}
        cache = module.Cache.wrap(lists, window=2)
    slots, others, counts, force = ids(1, 2), ids(3, 0), ids(2, 1), torch.tensor([True, False])
    starts, path = ids(0, 2, 4), ids(0, 1, 1, -1).view(2, 2)
    one, four = (sampler.inputs(rows, torch.float32) for rows in (2, 4))
    two = {key: x.unflatten(0, (2, 2)) for key, x in four.items()}
    width, params = (cache.heads, built.analysis.spec.size("V")), sampler.params()
    outs = [torch.zeros(*front, *width) for front in ((2,), (2, 2), (4,))]
    saved, state = cache.save(slots), cache.read(0, slots)
    given = cache, 0, slots
    calls = {
        "reset": lambda: cache.reset(slots),
        "load": lambda: cache.load(0, slots, state),
        "decode": lambda: module.decode(*given, **one, **params, out=outs[0]),
        "advance": lambda: module.advance(cache, slots, force),
        "verify": lambda: module.verify(*given, **two, **params, parents=path, out=outs[1]),
        "accept": lambda: module.accept(cache, slots, path=path, force=force),
        "late": lambda: module.accept(cache, slots, counts=counts, late=True),
        "extend": lambda: module.extend(*given, **two, **params, lengths=counts, out=outs[1]),
        "packed": lambda: module.extend(*given, **four, **params, starts=starts, out=outs[2]),
        "flush": lambda: module.flush(cache),
        "copy": lambda: cache.copy(slots, others),
        "seek": lambda: cache.seek(slots, counts),
    }
    if kind != "short":
        calls["recurrent"] = lambda: module.recurrent(*given, **one, **params, out=outs[0])
        calls["restore"] = lambda: cache.restore(slots, saved)
    monkeypatch.setattr(module, "strict", lambda _: False)
    monkeypatch.setattr(module.Table, "kernel", lambda *_: Nothing())
    for what, call in calls.items():
        with Seen() as seen:
            call()
        assert not seen.names - set(VIEWS), what
