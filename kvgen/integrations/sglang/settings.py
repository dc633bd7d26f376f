"""What the environment asks for, and what of SGLang's own arguments goes against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kvgen.formats import registry
from kvgen.integrations.refused import Refused
from kvgen.integrations.versions import Known
from kvgen.language.spec import MAX_BUFFER, MAX_WINDOW

KEY = "KVGEN_SGLANG"
KNOWN = Known("SGLang", "0.5.17", "0.5.18")
# the vectors in SGLang's rings are of the dtype of its states, so formats of both are named alike
POOLS = [name for name in registry.STATES if name in registry.RECORDS]
# SGLang's own length of a ring
PLACES = 16
# who drafts
DRAFTERS = ("EAGLE", "EAGLE3", "NEXTN", "STANDALONE")


@dataclass(frozen=True)
class Settings:
    """state: how states are stored, a name of `storage.state`. buffer: places of a ring; None: as
    SGLang has them."""

    state: str
    buffer: int | None = None

    @property
    def records(self) -> str:
        """How a ring's vectors are stored, a name of `storage.records`."""
        return registry.RECORDS[self.state].name

    @property
    def drafts(self) -> str:
        """The same of the rings of windows: inputs as they came, as SGLang has them."""
        return next(name for name, each in registry.RECORDS.items() if each.replays)


def mentioned(environment: Mapping[str, str]) -> bool:
    """Whether the environment asks for anything."""
    return bool(environment.get(KEY, "").strip())


def asked(environment: Mapping[str, str]) -> Settings:
    """What the environment asks for. Raises Refused, with all that is wrong with it."""
    text = environment.get(KEY, "")
    given: dict[str, str] = {}
    wrong: list[str] = []
    for part in text.split(","):
        key, separator, value = (each.strip() for each in part.partition("="))
        if key not in ("state", "buffer"):
            wrong.append(f"{KEY}: {key!r} is unknown, expected state or buffer")
        elif not separator or key in given:
            said = "twice" if key in given else "without a value"
            wrong.append(f"{KEY}: {key} {said}, expected as in state={POOLS[0]}")
        else:
            given[key] = value
    state = given.get("state", POOLS[0])
    if state not in POOLS:
        wrong.append(
            f"{KEY}: state={state}, expected one of {', '.join(POOLS)}, "
            "as SGLang's pool has one tensor of states, and its rings the same dtype"
        )
    buffer = given.get("buffer")
    whole = buffer is not None and buffer.isascii() and buffer.isdigit()
    if buffer is not None and not (whole and 1 <= int(buffer) <= MAX_BUFFER):
        wrong.append(f"{KEY}: buffer={buffer}, expected 1 to {MAX_BUFFER}")
    if wrong:
        raise Refused(wrong)
    return Settings(state, None if buffer is None else int(buffer))


def complete(settings: Settings, arguments: Any) -> None:
    """Set what follows from the settings, of SGLang's arguments that nobody has set."""
    if arguments.speculative_algorithm is None:
        arguments.enable_linear_replayssm = True
    elif not trees(arguments):
        arguments.enable_linear_replayssm_spec = True
    if arguments.mamba_ssm_dtype is None:
        arguments.mamba_ssm_dtype = settings.state
    if settings.buffer is not None:
        arguments.linear_replayssm_cache_len = settings.buffer


def trees(arguments: Any) -> bool:
    """Whether drafts are trees."""
    return (
        arguments.speculative_algorithm is not None and (arguments.speculative_eagle_topk or 1) > 1
    )


def agreed(environment: Mapping[str, str], arguments: Any) -> Settings:
    """What the environment asks for, where SGLang's arguments, as they were given, go with it.
    Raises Refused, with all that is wrong with both."""
    wanted, wrong = None, []
    try:
        wanted = asked(environment)
        wrong += storage(wanted, arguments)
    except Refused as refused:
        wrong += refused.reasons
    wrong += [*scheduling(arguments), *unserved(wanted, arguments)]
    if wanted is None or wrong:
        raise Refused(wrong)
    return wanted


def storage(settings: Settings, arguments: Any) -> Iterator[str]:
    """What is wrong with where states and records lie."""
    dtype, places = arguments.mamba_ssm_dtype, arguments.linear_replayssm_cache_len
    if dtype not in (None, settings.state):
        yield f"--mamba-ssm-dtype {dtype}: expected {settings.state}, as {KEY} has that state"
    if settings.buffer is not None and places not in (PLACES, settings.buffer):
        yield f"--linear-replayssm-cache-len {places}: expected {settings.buffer}, as {KEY} has it"
    if settings.buffer is None and not 1 <= places <= MAX_BUFFER:
        yield f"--linear-replayssm-cache-len {places}: expected 1 to {MAX_BUFFER}"
    if arguments.enable_unified_memory:
        yield "--enable-unified-memory: expected without, as its pool has no rings"


def scheduling(arguments: Any) -> Iterator[str]:
    """What SGLang's own rings rule out, too."""
    if not arguments.disable_radix_cache:
        strategy = arguments.mamba_radix_cache_strategy
        if strategy not in ("auto", "no_buffer"):
            yield f"--mamba-radix-cache-strategy {strategy}: expected no_buffer"
        if not arguments.disable_overlap_schedule:
            yield "--disable-overlap-schedule: expected with it, or with --disable-radix-cache"
        if arguments.page_size not in (None, 1):
            yield f"--page-size {arguments.page_size}: expected 1, or --disable-radix-cache"
    decode = arguments.linear_attn_decode_backend or arguments.linear_attn_backend
    if decode != "triton":
        yield f"--linear-attn-decode-backend {decode}: expected triton"
    if arguments.disaggregation_mode != "null":
        yield f"--disaggregation-mode {arguments.disaggregation_mode}: expected null"
    if arguments.enable_mixed_chunk:
        yield "--enable-mixed-chunk: expected without, as prompts' kernels read no rings"


def unserved(settings: Settings | None, arguments: Any) -> Iterator[str]:
    if arguments.device not in (None, "cuda"):
        yield f"--device {arguments.device}: expected cuda"
    if arguments.enable_two_batch_overlap:
        yield "--enable-two-batch-overlap: expected without, as layers of two steps would mix"
    drafter = arguments.speculative_algorithm
    if drafter is None:
        return
    if drafter not in DRAFTERS:
        yield f"--speculative-algorithm {drafter}: expected one of {', '.join(DRAFTERS)}"
    if (arguments.speculative_num_draft_tokens or 0) > MAX_WINDOW:
        yield (
            f"--speculative-num-draft-tokens {arguments.speculative_num_draft_tokens}: "
            f"expected at most {MAX_WINDOW}"
        )
    if arguments.enable_linear_replayssm:
        yield "--enable-linear-replayssm: expected without, as drafts have rings of their own"
    if settings is not None and settings.buffer is not None:
        yield f"{KEY}: buffer, expected without, as a ring has a place for each token of a window"
