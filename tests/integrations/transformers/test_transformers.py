"""Models of Transformers, accelerated: they say what they said, whatever is done to caches."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import pytest
from conversations import alike, dynamic, generated, ids, kept, said
from oracles import modeling, ready
from tiny_models import tiny

PROMPT = [[7, 8, 9, 10] * 3]
# of these `make test` runs some, `make test-engines` all in every version
only_in_its_versions = pytest.mark.engine


@pytest.fixture
def model(monkeypatch):
    ready("cpu")
    modeling("qwen3_next", monkeypatch)
    return tiny("qwen3_next")


@pytest.fixture
def kvgen():
    """The integration's functions."""
    ready("cpu")
    from kvgen.integrations import transformers

    return transformers


@pytest.fixture
def calls(monkeypatch):
    """How often layers have called what of a module, and how many tokens prompts had."""
    from kvgen.integrations.transformers import decoding
    from kvgen.integrations.transformers.states import States

    counted: Counter[str] = Counter()
    step, prompt = States.step, decoding.prompt

    def counting_step(self, place, inputs, params):
        tokens = next(iter(inputs.values())).shape[1]
        counted["decode" if tokens == 1 else "verify"] += 1
        return step(self, place, inputs, params)

    def counting_prompt(layer, own, hidden, cache, mask):
        counted["prompt"] += hidden.shape[1]
        return prompt(layer, own, hidden, cache, mask)

    monkeypatch.setattr(States, "step", counting_step)
    monkeypatch.setattr(decoding, "prompt", counting_prompt)
    return counted


def compared(model, kvgen, act, **options):
    """What `act` gives for the model as it was and accelerated."""
    wanted = act(model)
    kvgen.accelerate(model, **options)
    return act(model), wanted


def test_padded_rows_get_the_tokens_that_they_got(model, kvgen, calls):
    prompt = ids([[0, 0, 3, 4, 5, 6], [9, 8, 7, 6, 5, 4]])
    mask = (prompt > 0).long()
    # four steps, and a row that folds after two
    (got, logits), (tokens, wanted) = compared(
        model, kvgen, lambda model: generated(model, prompt, attention_mask=mask), buffer=2
    )
    assert got.tolist() == tokens.tolist()
    alike(logits, wanted)
    assert calls == {"prompt": 6, "decode": 4}


@only_in_its_versions
def test_beams_take_their_states_along(model, kvgen):
    def searched(model):
        options = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.0}
        said = model.generate(ids(PROMPT), max_new_tokens=5, do_sample=False, **options)
        return said.tolist()

    got, wanted = compared(model, kvgen, searched, buffer=3)
    assert got == wanted


@only_in_its_versions
def test_samples_are_those_of_the_same_seed(model, kvgen):
    import torch

    def sampled(model):
        torch.manual_seed(1)
        return generated(model, ids(PROMPT), 3, do_sample=True)[0].tolist()

    got, wanted = compared(model, kvgen, sampled)
    assert got == wanted


@only_in_its_versions
@pytest.mark.parametrize("graphs", [False, True])
def test_a_static_cache_is_served(model, kvgen, calls, graphs):
    import torch
    from transformers import CompileConfig

    options = {"cache_implementation": "static"}
    if graphs:
        settings = CompileConfig(backend="aot_eager", mode=None, fullgraph=True)
        settings._compile_all_devices = True
        options["compile_config"] = settings
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    (got, _), (wanted, _) = compared(
        model, kvgen, lambda model: generated(model, ids(PROMPT), 4, **options)
    )
    assert got.tolist() == wanted.tolist()
    assert calls["decode"] == 3
    assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0) == graphs


def test_two_conversations_take_turns_on_one_model(model, kvgen):
    def talk(model):
        first, second = dynamic(model), dynamic(model)
        said(model, [[1, 2, 3]], first)
        said(model, [[4, 5], [6, 7]], second)
        lines = [said(model, [[8]], first), said(model, [[9], [10]], second)]
        # more of the first, and then again a token of each
        lines.append(said(model, [[11, 12, 13]], first)[:, -1:])
        return [*lines, said(model, [[14]], first), said(model, [[15], [16]], second)]

    got, wanted = compared(model, kvgen, talk, buffer=4)
    for ours, own in zip(got, wanted, strict=True):
        alike(ours, own)


def test_what_is_done_to_a_cache_is_done_to_its_states(model, kvgen):
    kvgen.accelerate(model, buffer=4)
    cache = dynamic(model)
    said(model, [[1, 2, 3], [4, 5, 6]], cache)
    said(model, [[7], [8]], cache)
    wanted = said(model, [[9], [10]], copy.deepcopy(cache))
    again = pickle.loads(pickle.dumps(cache))
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(ids([3, 2, 1, 0]))
    alike(said(model, [[10], [10], [9], [9]], cache), wanted[[1, 1, 0, 0]])
    # one that came from a disk, or that the model as it was has begun
    alike(said(model, [[9], [10]], again), wanted)


@only_in_its_versions
def test_a_cache_that_is_reset_begins_again(model, kvgen):
    from transformers import StaticCache

    kvgen.accelerate(model, buffer=4)
    cache, fresh = (StaticCache(config=model.config, max_cache_len=8) for _ in range(2))
    said(model, [[1, 2, 3]], cache)
    said(model, [[4]], cache)
    cache.reset()
    for tokens in ([[5, 6]], [[7]]):
        alike(said(model, tokens, cache), said(model, tokens, fresh))


@only_in_its_versions
def test_a_copied_cache_goes_its_own_way(model, kvgen):
    kvgen.accelerate(model, buffer=4)
    cache = dynamic(model)
    said(model, [[1, 2, 3]], cache)
    said(model, [[4]], cache)
    other = copy.deepcopy(cache)
    wanted = said(model, [[5]], cache)
    said(model, [[6]], other)
    other = copy.deepcopy(cache)
    assert other.layers[0].states is not cache.layers[0].states
    alike(said(model, [[7]], other), said(model, [[7]], cache))
    assert wanted.shape == (1, 1, 64)


def test_prompt_lookup_says_what_plain_decoding_says(model, kvgen, calls):
    # of so few words that what comes next has often been there
    model = tiny("qwen3_next", vocab_size=6)
    prompt = ids([[3, 4, 5, 3, 5, 4, 3]])
    plain, _ = generated(model, prompt, 12)
    kvgen.accelerate(model, assisted=True, buffer=6)
    got, _ = generated(model, prompt, 12, prompt_lookup_num_tokens=3)
    assert got.tolist() == plain.tolist()
    assert calls["verify"] >= 3 and calls["verify"] + calls["decode"] < 12


@only_in_its_versions
def test_an_assistant_of_the_same_kind_is_set_back(model, kvgen, calls):
    plain, _ = generated(model, ids(PROMPT), 6)
    assistant = tiny("qwen3_next")
    # right at times
    assistant.lm_head.weight.data[:40] += 0.01
    assistant.generation_config.num_assistant_tokens = 4
    assistant.generation_config.assistant_confidence_threshold = 0
    for each in (model, assistant):
        kvgen.accelerate(each, assisted=True, buffer=4)
    got, _ = generated(model, ids(PROMPT), 6, assistant_model=assistant)
    assert got.tolist() == plain.tolist()
    assert calls["verify"] and calls["decode"]


def test_tokens_that_are_taken_back_have_never_been(model, kvgen):
    kvgen.accelerate(model, assisted=True, buffer=4)
    cache, other = dynamic(model), dynamic(model)
    cache.activate_past_recording()
    for each in (cache, other):
        said(model, [[1, 2, 3, 4, 5]], each)
    # over a fold: two of these four lie in front of it
    for token in (6, 7, 8, 9):
        said(model, [[token]], cache)
    cache.crop(-4)
    alike(said(model, [[10, 11]], cache), said(model, [[10, 11]], other))
    cache.crop(-1)
    with pytest.raises(ValueError, match="crop: 1 tokens, expected at most 0"):
        cache.crop(-1)


@only_in_its_versions
def test_a_long_window_goes_through_in_parts(model, kvgen):
    kvgen.accelerate(model, assisted=True, buffer=20)
    cache, other = dynamic(model), dynamic(model)
    cache.activate_past_recording()
    for each in (cache, other):
        said(model, [[1, 2, 3]], each)
    tokens = [[*range(4, 22)]]
    # 16 tokens and two, of which one is kept
    alike(said(model, tokens, cache), said(model, tokens, copy.deepcopy(other)))
    cache.crop(-17)
    alike(said(model, [[9]], cache), said(model, [[4, 9]], other)[:, 1:])


@only_in_its_versions
def test_a_crop_is_refused_where_nothing_was_kept(model, kvgen):
    kvgen.accelerate(model)
    cache = dynamic(model)
    cache.activate_past_recording()
    said(model, [[1, 2, 3]], cache)
    with pytest.raises(ValueError, match="assisted=True"):
        cache.crop(-1)


def test_restore_gives_the_model_back_bit_for_bit(model, kvgen):
    before = remembered(model)
    settings = model.generation_config.to_dict()
    cache, own = dynamic(model), dynamic(model)
    said(model, [[1, 2, 3]], own)
    wanted = said(model, [[4]], own)
    kvgen.accelerate(model, assisted=True)
    said(model, [[1, 2, 3]], cache)
    alike(said(model, [[4]], cache), wanted)
    assert kvgen.restore(model) is model
    assert remembered(model) == before
    assert model.generation_config.to_dict() == settings
    # and caches their states
    assert type(cache.layers[0]) is type(own.layers[0])
    assert vars(cache.layers[0]).keys() == vars(own.layers[0]).keys()
    alike(said(model, [[5]], cache), said(model, [[5]], own))
    assert kvgen.restore(model) is model


def remembered(model):
    """Every module's class and attributes, by identity."""
    return {
        name: (type(each), {key: id(value) for key, value in vars(each).items()})
        for name, each in model.named_modules()
    }


@only_in_its_versions
def test_a_cache_of_an_accelerated_model_is_no_other_models(model, kvgen):
    other = copy.deepcopy(model)
    kvgen.accelerate(model)
    cache = dynamic(model)
    said(model, [[1, 2, 3]], cache)
    with pytest.raises(ValueError, match="those of an accelerated model"):
        said(other, [[4]], cache)


@only_in_its_versions
def test_a_model_is_accelerated_in_whole_or_in_part_and_compiled_or_not(model, kvgen):
    import torch

    compiled = torch.compile(model)
    before = remembered(model)
    kvgen.accelerate(model.model)
    kvgen.accelerate(compiled, assisted=True)
    assert "buffer of 24" in kvgen.report(model)
    twin = copy.deepcopy(model)
    kvgen.restore(model)
    assert remembered(model) == before
    # a copied model is accelerated too
    assert "buffer of 24" in kvgen.report(twin)
    assert type(kvgen.restore(twin).model.layers[0].linear_attn) is type(
        model.model.layers[0].linear_attn
    )


@only_in_its_versions
def test_training_makes_no_states_and_has_its_gradients(model, kvgen):
    def learned(model):
        model.zero_grad()
        cache = dynamic(model)
        logits = model(ids([[1, 2, 3, 4]]), use_cache=True, **kept(model, cache)).logits
        logits.square().mean().backward()
        return model.model.layers[0].linear_attn.A_log.grad.clone(), cache

    wanted, own = learned(model)
    kvgen.accelerate(model)
    got, cache = learned(model)
    assert (got == wanted).all()
    assert type(cache.layers[0]) is type(own.layers[0])
    # and may be decoded from all the same
    alike(said(model, [[5]], cache), said(kvgen.restore(model), [[5]], own))


@only_in_its_versions
def test_accelerating_anew_takes_the_new_settings(model, kvgen):
    kvgen.accelerate(model, buffer=3)
    kvgen.accelerate(model, buffer=5, assisted=True)
    assert "buffer of 5, drafts of up to 4" in kvgen.report(model)
    with pytest.raises(ValueError, match="buffer"):
        kvgen.accelerate(model, buffer=1000)
    assert "buffer of 5" in kvgen.report(model)
    kvgen.restore(model)
    assert type(model.model.layers[0].linear_attn).__name__ == "Qwen3NextGatedDeltaNet"
    assert "was not accelerated" in kvgen.report(model)


def test_a_model_without_such_layers_is_refused_and_left_alone(kvgen):
    import torch
    from transformers import BambaConfig, BambaForCausalLM

    other = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="it has no linear attention"):
        kvgen.accelerate(other)
    assert "_kvgen" not in vars(other)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "mamba_n_heads": 4, "vocab_size": 8}
    other = BambaForCausalLM(BambaConfig(**sizes, mamba_d_head=16, intermediate_size=8))
    with pytest.raises(ValueError, match="BambaMixer has no adapter"):
        kvgen.accelerate(other)


def test_layers_that_cannot_be_served_are_left_alone_and_named(model, kvgen):
    kvgen.accelerate(tiny("qwen3_next"))
    two = tiny("qwen3_next", num_hidden_layers=3, layer_types=["linear_attention"] * 3)
    layers = [each.linear_attn for each in two.model.layers]
    layers[1].forward = layers[1].forward
    layers[2].A_log.data = layers[2].A_log.data.double()
    kvgen.accelerate(two)
    text = kvgen.report(two)
    assert "gated_deltanet: 1 layer (model.layers.0.linear_attn); state float32" in text
    assert "left alone: 1 layer (model.layers.1.linear_attn): its forward has been replaced" in text
    assert "model.layers.2.linear_attn): its parameters are torch.float64" in text
    assert [type(each).__name__[:5] for each in layers] == ["Kvgen", "Qwen3", "Qwen3"]


@only_in_its_versions
def test_layers_behind_hooks_are_served_and_given_back(model, kvgen, calls):
    # as accelerate has them, where a model is on several devices
    layer = model.model.layers[0].linear_attn
    layer._old_forward = layer.forward
    layer.forward = lambda *given, **more: layer._old_forward(*given, **more)
    (got, _), (wanted, _) = compared(model, kvgen, lambda model: generated(model, ids(PROMPT), 3))
    assert got.tolist() == wanted.tolist() and calls["decode"] == 2
    kvgen.restore(model)
    assert layer._old_forward == type(layer).forward.__get__(layer)
    generated(model, ids(PROMPT), 3)
    assert calls["decode"] == 2


@only_in_its_versions
def test_drafts_are_refused_on_a_static_cache(model, kvgen):
    from transformers import StaticCache

    kvgen.accelerate(model, assisted=True)
    cache = StaticCache(config=model.config, max_cache_len=8)
    cache.activate_past_recording()
    with pytest.raises(ValueError, match="a static one that records its past"):
        said(model, [[1, 2, 3]], cache)


@only_in_its_versions
def test_a_window_longer_than_a_buffer_loses_what_it_cannot_keep(model, kvgen):
    kvgen.accelerate(model, assisted=True, buffer=3)
    cache, other = dynamic(model), dynamic(model)
    cache.activate_past_recording()
    for each in (cache, other):
        said(model, [[1, 2, 3]], each)
        said(model, [[4, 5, 6, 7, 8]], each)
    with pytest.raises(ValueError, match="crop: 4 tokens, expected at most 3"):
        cache.crop(-4)


@pytest.mark.parametrize("version", ["5.16.1", "5.25.0"])
def test_an_unknown_version_is_refused_and_nothing_has_changed(model, kvgen, monkeypatch, version):
    import transformers

    from kvgen.integrations.versions import UnknownVersion

    before = remembered(model)
    monkeypatch.setattr(transformers, "__version__", version)
    with pytest.raises(UnknownVersion, match=f"Transformers {version} is not known"):
        kvgen.accelerate(model)
    assert remembered(model) == before


@only_in_its_versions
def test_a_decode_step_is_one_graph(model, kvgen):
    import torch

    kvgen.accelerate(model, buffer=3)
    cache, other = dynamic(model), dynamic(model)
    for each in (cache, other):
        said(model, [[1, 2, 3]], each)
    torch._dynamo.reset()
    layer = model.model.layers[0].linear_attn
    step = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for _ in range(4):
            hidden = torch.randn(1, 1, 32)
            alike(step(hidden, cache), layer(hidden, other))


def test_more_of_a_prompt_is_the_layers_own_where_nothing_may_be_taken_back(model, kvgen, calls):
    kvgen.accelerate(model, assisted=True)
    cache = dynamic(model)
    for tokens in ([1, 2, 3], [4, 5]):
        said(model, [tokens], cache)
    assert calls["prompt"] % 5 == 0 and calls["prompt"] and not calls["verify"]


def test_steps_of_a_recorded_prompt_are_held_within_the_layers_limits(kvgen, monkeypatch):
    modeling("nemotron_h", monkeypatch)
    model = tiny("nemotron_h")
    for mixer in (each for each in model.modules() if hasattr(each, "dt_bias")):
        # most steps are then shorter than a prompt's may be
        mixer.dt_bias.data.fill_(-7.5)
        mixer.in_proj.weight.data[-mixer.num_heads :] *= 0.1
    wanted = said(model, [[1, 2, 3, 4, 5, 6, 7]], dynamic(model))
    kvgen.accelerate(model, assisted=True, buffer=8)
    cache = dynamic(model)
    cache.activate_past_recording()
    alike(said(model, [[1, 2, 3, 4, 5, 6, 7]], cache), wanted)
