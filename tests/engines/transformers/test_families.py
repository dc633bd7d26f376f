"""Every family of models that is accelerated, in the versions of Transformers that are known."""

from __future__ import annotations

import copy

import pytest
from conversations import alike, dynamic, generated, ids, said
from oracles import modeling, ready
from tiny_models import MODELS, tiny

pytestmark = pytest.mark.engine


@pytest.fixture(params=MODELS)
def name(request, monkeypatch):
    ready("cpu")
    modeling(request.param, monkeypatch)
    return request.param


@pytest.fixture
def kvgen(name):
    from kvgen.integrations import transformers

    return transformers


def accelerated(model):
    return [each for each in model.modules() if type(each).__name__.startswith("Kvgen")]


def test_padded_rows_get_the_tokens_that_they_got(name, kvgen):
    model = tiny(name)
    prompt = ids([[0, 0, 3, 4, 5, 6, 7, 8, 9], [9, 8, 7, 6, 5, 4, 3, 4, 5]])
    mask = (prompt > 0).long()
    tokens, wanted = generated(model, prompt, 6, attention_mask=mask)
    kvgen.accelerate(model, buffer=3)
    got, logits = generated(model, prompt, 6, attention_mask=mask)
    assert got.tolist() == tokens.tolist()
    alike(logits, wanted)
    kvgen.restore(model)
    got, again = generated(model, prompt, 2, attention_mask=mask)
    assert (again == wanted[:, :2]).all()


@pytest.mark.parametrize("state", ["split", "bfloat16"])
def test_a_state_in_other_storage_is_near(name, kvgen, state):
    model = tiny(name)
    _, wanted = generated(model, ids([[5, 6, 7, 8]]), 3)
    kvgen.accelerate(model, state=state, buffer=2)
    _, logits = generated(model, ids([[5, 6, 7, 8]]), 3)
    assert 0 < (logits[:, 1] - wanted[:, 1]).norm() / wanted[:, 1].norm() < 0.05


def test_prompt_lookup_says_what_plain_decoding_says(name, kvgen, monkeypatch):
    import transformers

    # of so few words that what comes next has often been there
    model = tiny(name, vocab_size=6)
    prompt = ids([[3, 4, 5, 3, 5, 4, 3]])
    plain, _ = generated(model, prompt, 10)
    kvgen.accelerate(model, assisted=True, buffer=6)
    served = accelerated(model)[0].kvgen
    verified, verify = [], served.module.verify
    monkeypatch.setattr(
        served.module, "verify", lambda *given, **more: verified.append(1) or verify(*given, **more)
    )
    if name == "mamba2" and transformers.__version__ < "5.24":
        # whose `generate` finds no cache in such models
        with pytest.raises(RuntimeError, match="requires a cache"):
            generated(model, prompt, 10, prompt_lookup_num_tokens=3)
        return
    got, _ = generated(model, prompt, 10, prompt_lookup_num_tokens=3)
    assert got.tolist() == plain.tolist()
    assert len(verified) >= 2


def test_a_conversation_goes_on_by_tokens_by_prompts_and_in_a_copy(name, kvgen):
    def talk(model):
        cache = dynamic(model)
        lines = [said(model, tokens, cache) for tokens in ([[5, 6, 7, 8, 9]], [[10]], [[11, 12]])]
        other = copy.deepcopy(cache)
        return [*lines, said(model, [[13]], cache), said(model, [[14]], other)]

    model = tiny(name)
    wanted = talk(model)
    kvgen.accelerate(model, buffer=2)
    for got, own in zip(talk(model), wanted, strict=True):
        alike(got, own)


def test_a_decode_step_is_one_graph(name, kvgen):
    import torch

    model = tiny(name)
    kvgen.accelerate(model, buffer=3)
    found = accelerated(model)[0]
    cache, other = dynamic(model), dynamic(model)
    for each in (cache, other):
        said(model, [[1, 2, 3]], each)
    torch._dynamo.reset()
    step = torch.compile(found, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for _ in range(2):
            hidden = torch.randn(1, 1, 32)
            alike(step(hidden, cache), found(hidden, other))
