"""The plug-in of vLLM, as far as it needs no vLLM: what it is asked for, pages, rows, windows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kvgen.formats import registry
from kvgen.integrations import modules
from kvgen.integrations.vllm import page, settings, windows
from kvgen.integrations.vllm.group import Groups
from kvgen.integrations.vllm.warming import batches

SIZES = {"H": 1, "HV": 2, "K": 16, "V": 16}


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVGEN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def served(state: str = "float32", **overrides: str):
    return modules.serving("gated_deltanet", SIZES, state, ["decode", "verify"], **overrides)


# what is asked for --------------------------------------------------------------------------------


@pytest.mark.parametrize("additional", [{}, None, {"other": 1}, {"kvgen": None}, {"kvgen": False}])
def test_nothing_is_served_that_is_not_asked_for(additional):
    assert settings.asked(additional) is None


def test_state_and_buffer_are_taken_as_they_are_asked_for():
    assert settings.asked({"kvgen": {}}) == settings.Settings(registry.STATE.name)
    given = {"state": "split", "buffer": 16}
    assert settings.asked({"kvgen": given}) == settings.Settings("split", 16)
    given = {"invariant": True}
    assert settings.asked({"kvgen": given}) == settings.Settings("float32", None, True)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (True, "kvgen: True, expected a table"),
        ({"states": "split"}, "kvgen.states: unknown, expected state, buffer or invariant"),
        ({"state": "int8"}, "kvgen.state: 'int8', expected one of float32, bfloat16"),
        ({"state": ["split"]}, r"kvgen.state: \['split'\]"),
        ({"buffer": 0}, "kvgen.buffer: 0, expected 1 to 64"),
        ({"buffer": True}, "kvgen.buffer: True"),
        ({"buffer": "16"}, "kvgen.buffer: '16'"),
        ({"invariant": 1}, "kvgen.invariant: 1, expected True or False"),
    ],
)
def test_what_cannot_be_meant_is_named(given, named):
    with pytest.raises(settings.Refused, match=named):
        settings.asked({"kvgen": given})


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(settings.Refused) as refused:
        settings.asked({"kvgen": {"state": "half", "buffer": -1, "depth": 2}})
    assert len(refused.value.reasons) == 3
    assert str(refused.value).startswith(
        "kvgen cannot serve what is asked for; nothing was changed:\n  kvgen.depth"
    )


def config(drafts: int = 0, **cache: object) -> SimpleNamespace:
    """What is looked at of a VllmConfig."""
    usual = {
        "mamba_ssm_cache_dtype": "auto",
        "enable_prefix_caching": False,
        "mamba_cache_mode": "none",
        "use_replayssm": False,
    }
    return SimpleNamespace(
        cache_config=SimpleNamespace(**(usual | cache)),
        speculative_config=SimpleNamespace(num_speculative_tokens=drafts) if drafts else None,
        model_config=SimpleNamespace(
            is_hybrid=True, is_attention_free=False, architecture="Qwen3NextForCausalLM"
        ),
        kv_transfer_config=None,
        parallel_config=SimpleNamespace(use_ubatching=False),
    )


def test_usual_settings_contradict_nothing():
    for drafts in (0, 3):
        assert settings.contradictions(settings.Settings("split", 8), config(drafts), "cuda") == []


@pytest.mark.parametrize(
    ("cache", "named"),
    [
        ({"mamba_ssm_cache_dtype": "float16"}, "mamba_ssm_cache_dtype: float16"),
        ({"enable_prefix_caching": True}, "enable_prefix_caching: on"),
        ({"mamba_cache_mode": "align"}, "mamba_cache_mode: align"),
        ({"use_replayssm": True}, "use_replayssm: on"),
    ],
)
def test_a_flag_that_contradicts_is_named(cache, named):
    wrong = settings.contradictions(settings.Settings("split"), config(**cache), "cuda")
    assert len(wrong) == 1 and wrong[0].startswith(named)


def test_a_dtype_of_the_pages_that_is_right_contradicts_nothing():
    same = config(mamba_ssm_cache_dtype="bfloat16")
    assert settings.contradictions(settings.Settings("split"), same, "cpu") == []


def test_models_connectors_micro_batches_and_platforms_are_named():
    other = config()
    other.model_config.is_hybrid = False
    other.kv_transfer_config, other.parallel_config.use_ubatching = object(), True
    wrong = settings.contradictions(settings.Settings("float32"), other, "rocm")
    assert [each.partition(":")[0] for each in wrong] == [
        "platform",
        "model",
        "kv_transfer_config",
        "micro-batches (enable_dbo)",
    ]


def test_drafts_whose_bits_depend_on_other_rows_are_named():
    asked = settings.Settings("float32", None, True)
    assert settings.contradictions(asked, config(), "cuda") == []
    (wrong,) = settings.contradictions(asked, config(3), "cuda")
    assert wrong.startswith("num_speculative_tokens: 3, expected none with kvgen.invariant")


@pytest.mark.parametrize(("drafts", "buffer"), [(16, None), (4, 4), (15, 8)])
def test_more_drafts_than_a_row_takes_are_named(drafts, buffer):
    wrong = settings.contradictions(settings.Settings("float32", buffer), config(drafts), "cuda")
    assert len(wrong) == 1 and f"num_speculative_tokens: {drafts}" in wrong[0]


# pages --------------------------------------------------------------------------------------------


def planned(module, state: str, convolution: int = 96) -> page.Page:
    return page.plan(
        module, convolution, dtype=torch.bfloat16, heads=2, buffer=4, window=2, device="cpu"
    )


@pytest.mark.parametrize("state", ["float32", "split", "bfloat16"])
def test_a_page_holds_what_a_cache_holds_behind_the_convolution(cache_folder, state):
    module = served(state)
    plan = planned(module, state)
    kept = module.Cache.empty(1, device="meta", buffer=4, window=2, heads=2)
    pieces = (plan.state, *plan.more)
    assert {each.name: each.shape for each in pieces} == {
        name: tuple(tensor.shape[2:])
        for name, tensor in kept.tensors.items()
        if name not in ("cursors", "skipped", "pending", "work")
    }
    assert plan.buffer == 4 and plan.state.offset == 96 and plan.begin == 96 + plan.state.bytes
    ends = [each.offset + each.bytes for each in pieces]
    assert ends[-1] == plan.end == plan.begin + plan.bytes
    for each, end in zip(plan.more, ends, strict=False):
        assert each.offset >= end and each.offset % page.ALIGNMENT == 0


def test_pieces_of_a_page_share_no_byte(cache_folder):
    plan = planned(served("split"), "split")
    pages = torch.zeros(3, plan.end + 64, dtype=torch.int8)
    tensors = plan.tensors(pages)
    for number, tensor in enumerate(tensors.values()):
        tensor.view(torch.int8).fill_(number + 1)
    for number, tensor in enumerate(tensors.values()):
        assert (tensor.view(torch.int8) == number + 1).all()
    assert not pages[:, :96].any() and not pages[:, plan.end :].any()


def test_layers_that_lie_evenly_are_one_tensor():
    memory = torch.arange(5 * 12)
    layers = [memory[5 * n : 5 * n + 45].unfold(0, 3, 15) for n in range(3)]
    whole = page.side_by_side(layers)
    assert whole is not None and whole.shape == (3, 3, 3)
    for n, layer in enumerate(layers):
        assert torch.equal(whole[:, n], layer)
    one = page.side_by_side(layers[:1])
    assert one is not None and torch.equal(one[:, 0], layers[0])


def test_layers_that_do_not_are_left_apart():
    memory = torch.arange(60)
    layers = [memory[n : n + 45].unfold(0, 3, 15) for n in (0, 5, 11)]
    assert page.side_by_side(layers) is None
    assert page.side_by_side([layers[0], layers[1].clone()]) is None
    assert page.side_by_side([layers[1], layers[0]]) is None


@pytest.mark.parametrize("state", sorted(registry.STATES))
def test_a_state_goes_through_its_planes(state):
    kept = registry.STATES[state]
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(kept.joined(kept.parted(x)).float(), kept.kept(x))


def test_planes_in_torch_are_those_of_the_kernels(cache_folder):
    module = served("split")
    cache = module.Cache.empty(2, device="cpu", buffer=4)
    x = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    cache.load(0, torch.tensor([1]), x)
    planes = [cache.tensors[name][1:, 0] for name in module.Cache.table.planes]
    kept = registry.STATES["split"]
    for plane, part in zip(planes, kept.parted(x), strict=True):
        assert torch.equal(plane, part)
    assert torch.equal(kept.joined(planes), x)


# rows ---------------------------------------------------------------------------------------------


def paged(
    module, blocks: int, layers: int, window: int, count: int = 1, invariant: bool = False
) -> Groups:
    """Groups over pages, each layer's behind those of the one before, as vLLM has them; groups lie
    over each other."""
    plan = page.plan(
        module, 32, dtype=torch.bfloat16, heads=2, buffer=4, window=window, device="cpu"
    )
    size = plan.end + 128
    memory = torch.randint(-128, 127, (layers, blocks, size), dtype=torch.int8)
    # old records of other requests, but numbers all the same
    memory = memory & 63
    held = [plan.tensors(pages) for pages in memory]
    return Groups(module, [held] * count, window, invariant)


def drawn(module, generator: torch.Generator, *front: int) -> dict[str, torch.Tensor]:
    return {
        name: torch.randn(*front, *(module.SIZES[axis] for axis in axes), generator=generator).to(
            torch.bfloat16
        )
        for name, axes in module.INPUTS.items()
    }


def exact(module, state, given, params):
    """One token in float64 → output, state."""
    return module.reference(state, **{n: x.double() for n, x in (given | params).items()})


def decoded(groups: Groups, tokens: int, known, params, generator):
    """So many tokens of block 2, beside a row of padding, from what its two layers must hold → what
    they must hold then."""
    module, group = groups.module, groups.each[0]
    for _ in range(tokens):
        groups.begin([{"decoding": torch.tensor([2, 0], dtype=torch.int32)}])
        for layer in range(2):
            given = drawn(module, generator, 2)
            out = torch.empty(2, 2, 16, dtype=torch.bfloat16)
            group.decode(layer, given | params, out)
            row = {name: x[:1] for name, x in given.items()}
            o, known[layer] = exact(module, known[layer], row, params)
            assert (out[:1].double() - o).norm() < 1e-2 * o.norm() and not out[1].any()
        groups.end()
    return known


@pytest.mark.parametrize("invariant", [True, False])
def test_a_rows_bits_depend_on_no_other_row_where_that_is_asked_for(cache_folder, invariant):
    module = served("float32")
    given = torch.Generator().manual_seed(5)
    steps = [drawn(module, given, 9) for _ in range(6)]
    params = {"A_log": torch.zeros(2), "dt_bias": torch.zeros(2)}
    said = []
    for rows in (1, 9):
        groups = paged(module, blocks=10, layers=1, window=0, invariant=invariant)
        group, slots = groups.each[0], torch.arange(1, rows + 1, dtype=torch.int32)
        groups.begin([{"prompts": slots, "continued": torch.zeros(rows, dtype=torch.bool)}])
        state = group.cache.tensors[module.Cache.table.planes[0]]
        state[1:] = torch.linspace(-1, 1, state[1].numel()).view(state[1].shape)
        groups.end()
        said.append([])
        for step in steps:
            groups.begin([{"decoding": slots}])
            out = torch.empty(rows, 2, 16, dtype=torch.bfloat16)
            group.decode(0, {name: x[:rows] for name, x in step.items()} | params, out)
            groups.end()
            said[-1].append(out[0])
        said[-1].append(state[1])
    alike = all(torch.equal(alone, beside) for alone, beside in zip(*said, strict=True))
    # nine rows fold by parts, before their buffers are full, where it is not asked for
    assert alike == invariant


@pytest.mark.parametrize("state", ["float32", "split"])
def test_blocks_are_recycled_and_prompts_continue(cache_folder, state):
    module = served(state, **{"storage.records": "input"} if state == "split" else {})
    groups = paged(module, blocks=4, layers=2, window=0)
    group = groups.each[0]
    generator = torch.Generator().manual_seed(2)
    params = {"A_log": torch.zeros(2), "dt_bias": torch.zeros(2)}
    block = torch.tensor([2], dtype=torch.int32)
    fmt = registry.STATES[state]
    planes = [group.cache.tensors[name] for name in module.Cache.table.planes]
    begun = [torch.randn(1, 2, 16, 16, generator=generator) for _ in range(2)]

    def prompt(states, continued):
        """A server's own kernel takes a row's states to where a prompt ends."""
        groups.begin([{"prompts": block, "continued": torch.tensor([continued])}])
        before = [fmt.joined([plane[2:3, layer] for plane in planes]).clone() for layer in range(2)]
        for layer, given in enumerate(states):
            for plane, part in zip(planes, fmt.parted(given), strict=True):
                plane[2:3, layer] = part
        groups.end()
        return before

    prompt(begun, False)
    known = [{"S": each.double()} for each in begun]
    known = decoded(groups, 6, known, params, generator)
    assert group.cache.cursors.tolist()[2] == 2
    # a chunk that continues finds all six tokens in the state
    for found, expected in zip(prompt(begun, True), known, strict=True):
        assert (found.double() - expected["S"]).norm() < 1e-5 * expected["S"].norm()
    assert group.cache.cursors.tolist() == [0, 0, 0, 0]
    groups.begin([{"decoding": block}])
    out = torch.empty(1, 2, 16, dtype=torch.bfloat16)
    for layer in range(2):
        group.decode(layer, drawn(module, generator, 1) | params, out)
    groups.end()
    # and one that starts nothing of the request before
    prompt(begun, False)
    assert group.cache.cursors.tolist() == [0, 0, 0, 0]


def test_prompts_leave_what_inputs_were_where_single_tokens_find_it(cache_folder):
    """Of a module that convolves: what a server's own convolution has kept goes into the rings, and
    comes back when a prompt goes on, whatever tokens have come between."""
    module = modules.serving(
        "gated_deltanet_conv", SIZES | {"W": 4}, "float32", ["decode"], **{"storage.layout": "vk"}
    )
    groups = paged(module, blocks=4, layers=2, window=0)
    group, generator = groups.each[0], torch.Generator().manual_seed(6)
    params = {
        name: torch.randn(*(module.SIZES[axis] for axis in axes), generator=generator)
        for name, axes in module.PARAMS.items()
    }
    block = torch.tensor([2], dtype=torch.int32)
    groups.begin([{"prompts": block, "continued": torch.tensor([False])}])
    known = []
    for layer in range(2):
        group.cache.tensors["S"][2, layer] = 0
        past = {
            name: torch.randn(tensor.shape, generator=generator).to(torch.bfloat16)
            for name, tensor in group.past(layer, block).items()
        }
        # as parts of what all channels share, which lie apart
        wide = torch.cat([each.flatten(2) for each in past.values()], dim=-1)
        parts = wide.split([each[0, 0].numel() for each in past.values()], dim=-1)
        named = zip(past.items(), parts, strict=True)
        group.remember(layer, block, {name: part.view(x.shape) for (name, x), part in named})
        before = group.past(layer, block)
        assert all(torch.equal(before[name], past[name]) for name in past)
        state = torch.zeros(1, 2, 16, 16, dtype=torch.float64)
        known.append({"S": state, **{name: x.double() for name, x in past.items()}})
    groups.end()
    known = decoded(groups, 6, known, params, generator)
    groups.begin([{"prompts": block, "continued": torch.tensor([True])}])
    for layer in range(2):
        found = group.past(layer, block)
        assert found and all(torch.equal(x.double(), known[layer][n]) for n, x in found.items())
        state = group.cache.tensors["S"][2:, layer][:1].double().mT
        assert (state - known[layer]["S"]).norm() < 1e-5 * known[layer]["S"].norm()


def test_what_is_kept_of_drafts_is_said_a_step_later(cache_folder):
    module = served()
    groups = paged(module, blocks=4, layers=1, window=3)
    group = groups.each[0]
    generator = torch.Generator().manual_seed(3)
    params = {"A_log": torch.zeros(2), "dt_bias": torch.zeros(2)}
    block = torch.tensor([3], dtype=torch.int32)
    groups.begin([{"prompts": block, "continued": torch.tensor([False])}])
    group.cache.tensors["S"][3] = 0
    groups.end()
    known, last, kept = None, None, 1
    for step in range(4):
        if last is not None:
            for token in range(kept):
                row = {name: x[:, token] for name, x in last.items()}
                _, known = exact(module, known, row, params)
        accepted = torch.tensor([kept], dtype=torch.int32)
        groups.begin([{"drafted": block, "accepted": accepted}])
        last, kept = drawn(module, generator, 1, 3), 1 + step % 3
        out, state = group.verify(0, last | params), known
        groups.end()
        for token in range(3):
            row = {name: x[:, token] for name, x in last.items()}
            o, state = exact(module, state, row, params)
            assert (out[:, token].double() - o).norm() < 1e-2 * o.norm()


def test_groups_that_lie_over_each_other_share_their_cursors(cache_folder):
    module = served()
    groups = paged(module, blocks=5, layers=2, window=0, count=2)
    assert groups.shared
    generator = torch.Generator().manual_seed(4)
    params = {"A_log": torch.zeros(2), "dt_bias": torch.zeros(2)}
    slots = [torch.tensor(rows, dtype=torch.int32) for rows in ([1, 0], [4, 2])]
    fresh = torch.tensor([False, False])
    groups.begin([{"prompts": own, "continued": fresh} for own in slots])
    groups.each[0].cache.tensors["S"][:] = 0
    groups.end()
    known = {}
    for step in range(5):
        groups.begin([{"decoding": own} for own in slots])
        for layer in range(2):
            for group, own in zip(groups.each, slots, strict=True):
                given = drawn(module, generator, 2)
                out = torch.empty(2, 2, 16, dtype=torch.bfloat16)
                group.decode(layer, given | params, out)
                for at, block in enumerate(own.tolist()):
                    if block:
                        row = {name: x[at : at + 1] for name, x in given.items()}
                        o, known[block, layer] = exact(
                            module, known.get((block, layer)), row, params
                        )
                        assert (out[at : at + 1].double() - o).norm() < 1e-2 * o.norm()
        groups.end()
        assert groups.each[1].cache.cursors.tolist() == [0] + [(step + 1) % 4] * 2 + [
            0,
            (step + 1) % 4,
        ]


def test_groups_that_do_not_have_cursors_of_their_own(cache_folder):
    module = served()
    one, other = (paged(module, blocks=3, layers=1, window=0) for _ in range(2))
    held = [
        [
            {
                name: tensor[:, 0]
                for name, tensor in each.each[0].cache.tensors.items()
                if tensor.dim() > 1
            }
        ]
        for each in (one, other)
    ]
    groups = Groups(module, held, 0)
    assert not groups.shared
    slots = torch.tensor([1], dtype=torch.int32)
    groups.begin([{"prompts": slots, "continued": torch.tensor([False])}] * 2)
    groups.begin([{"decoding": slots}, {"decoding": slots + 1}])
    given = drawn(module, torch.Generator().manual_seed(5), 1)
    params = {"A_log": torch.zeros(2), "dt_bias": torch.zeros(2)}
    for group in groups.each:
        group.decode(0, given | params, torch.empty(1, 2, 16, dtype=torch.bfloat16))
    groups.end()
    assert [group.cache.cursors.tolist() for group in groups.each] == [[0, 1, 0], [0, 0, 1]]


# windows ------------------------------------------------------------------------------------------


def test_windows_of_one_length_are_taken_as_they_lie():
    x = torch.arange(6)
    window = windows.of(torch.tensor([0, 3, 6]), 3, 3, 6)
    assert window.there is None and torch.equal(window.spread(x), x.view(2, 3))
    assert torch.equal(window.gathered(window.spread(x)), x)


def test_shorter_windows_are_filled_and_their_tokens_found_again():
    starts = torch.tensor([0, 3, 4, 6], dtype=torch.int32)
    x = torch.arange(6)
    window = windows.of(starts, None, 3, 6)
    assert window.spread(x).tolist() == [[0, 1, 2], [3, 3, 3], [4, 5, 5]]
    assert torch.equal(window.gathered(window.spread(x)), x)


def test_windows_that_are_all_short_are_that_short():
    window = windows.of(torch.tensor([0, 1, 2]), 1, 4, 2)
    assert window.tokens == 1 and window.there is None


def test_warming_takes_every_size_of_batch():
    assert list(batches(1)) == [1]
    assert list(batches(64)) == [1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64]
    assert list(batches(48))[-3:] == [32, 33, 48]
