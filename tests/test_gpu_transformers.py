"""Models of Transformers, accelerated, on a GPU."""

from __future__ import annotations

import pytest
from conversations import dynamic, generated, ids, said
from oracles import modeling, ready, worst
from tiny_models import MODELS, tiny

pytestmark = pytest.mark.gpu


@pytest.fixture
def accelerated(monkeypatch):
    """A model by its name, as it is, and what accelerates it."""
    ready("cuda")
    from kvgen.integrations import transformers

    def made(name, **changed):
        modeling(name, monkeypatch)
        return tiny(name, **changed).cuda(), transformers

    return made


@pytest.mark.parametrize("name", MODELS)
def test_padded_rows_get_the_tokens_that_they_got(accelerated, name):
    model, kvgen = accelerated(name)
    prompt = ids([[0, 0, *range(3, 20)], list(range(21, 40))]).cuda()
    mask = (prompt > 0).long()
    tokens, wanted = generated(model, prompt, 40, attention_mask=mask)
    kvgen.accelerate(model)
    got, logits = generated(model, prompt, 40, attention_mask=mask)
    assert got.tolist() == tokens.tolist()
    assert worst(logits, wanted) < 1e-3


@pytest.mark.parametrize("name", [name for name in MODELS if name != "mamba2"])
def test_prompt_lookup_says_what_plain_decoding_says(accelerated, name):
    model, kvgen = accelerated(name, vocab_size=6)
    prompt = ids([[3, 4, 5, 3, 5, 4, 3] * 8]).cuda()
    plain, _ = generated(model, prompt, 60)
    kvgen.accelerate(model, assisted=True)
    passes = []
    model.get_output_embeddings().register_forward_hook(lambda *_: passes.append(1))
    got, _ = generated(model, prompt, 60, prompt_lookup_num_tokens=10)
    assert got.tolist() == plain.tolist()
    assert len(passes) < 50


def test_an_assistant_of_the_same_kind_is_set_back(accelerated):
    model, kvgen = accelerated("qwen3_next")
    prompt = ids([list(range(3, 20))]).cuda()
    plain, _ = generated(model, prompt, 60)
    assistant = tiny("qwen3_next").cuda()
    assistant.lm_head.weight.data[:40] += 0.01
    for each in (model, assistant):
        kvgen.accelerate(each, assisted=True)
    got, _ = generated(model, prompt, 60, assistant_model=assistant)
    assert got.tolist() == plain.tolist()


# compiled by itself with a static cache, decode steps in CUDA graphs
@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_calls_of_all_sizes_follow_each_other(accelerated, cache):
    model, kvgen = accelerated("qwen3_next")
    prompts = [
        ids([list(range(3, 3 + length))] * rows).cuda()
        for rows, length in ((1, 8), (3, 5), (1, 12))
    ]

    def all_of_them():
        options = {"cache_implementation": cache}
        return [generated(model, prompt, 24, **options)[0].tolist() for prompt in prompts]

    wanted = all_of_them()
    kvgen.accelerate(model)
    assert all_of_them() == wanted


def test_beams_take_their_states_along(accelerated):
    model, kvgen = accelerated("qwen3_next")

    def searched():
        prompt = ids([list(range(3, 12))] * 2).cuda()
        return model.generate(prompt, max_new_tokens=24, num_beams=4, do_sample=False).tolist()

    wanted = searched()
    kvgen.accelerate(model)
    assert searched() == wanted


@pytest.mark.parametrize(("state", "bound"), [("split", 2e-2), ("bfloat16", 2e-2)])
def test_a_state_in_other_storage_is_near(accelerated, state, bound):
    import torch

    model, kvgen = accelerated("qwen3_next")
    model = model.to(torch.bfloat16)
    prompt = ids([list(range(3, 20))]).cuda()
    _, wanted = generated(model, prompt, 2)
    kvgen.accelerate(model, state=state)
    _, logits = generated(model, prompt, 2)
    assert worst(logits[:, 1], wanted[:, 1]) < bound


@pytest.mark.parametrize("name", MODELS)
def test_restore_gives_the_model_back_bit_for_bit(accelerated, name):
    import torch

    model, kvgen = accelerated(name)
    prompt = ids([list(range(3, 20))]).cuda()
    _, wanted = generated(model, prompt, 20)
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    kvgen.accelerate(model, assisted=True)
    generated(model, prompt, 20)
    kvgen.restore(model)
    assert all(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())
    assert torch.equal(generated(model, prompt, 20)[1], wanted)


def test_caches_leave_nothing_behind(accelerated):
    import gc

    import torch

    model, kvgen = accelerated("qwen3_next")
    kvgen.accelerate(model)
    memory = []
    for _ in range(3):
        cache = dynamic(model)
        said(model.cuda(), [[3, 4, 5]], cache)
        del cache
        gc.collect()
        memory.append(torch.cuda.memory_allocated())
    assert memory[2] == memory[1]
