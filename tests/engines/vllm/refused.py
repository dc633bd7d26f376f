"""What is refused when a configuration is made: python refused.py MODEL. Prints JSON, the message
by case, null where there is none."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from scenario import ENVIRONMENT

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "vocab_size": 64,
    "max_position_embeddings": 64,
}


def main(model: str) -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import vllm
    from vllm import EngineArgs

    def refused(kvgen: Any, **options: Any) -> str | None:
        given = {"model": model, "skip_tokenizer_init": True, "enable_prefix_caching": False,
                 "max_model_len": 64, "additional_config": kvgen, **options}  # fmt: skip
        try:
            EngineArgs(**given).create_engine_config()
        except Exception as error:
            return str(error)
        return None

    plain = {"kvgen": {"state": "float32"}}
    drafts = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 2}
    found = {
        "usual": refused(plain),
        "not asked for": refused({}, enable_prefix_caching=True),
        "unknown key": refused({"kvgen": {"states": "float32"}}),
        "unknown state": refused({"kvgen": {"state": "int8"}}),
        "another dtype": refused(plain, mamba_ssm_cache_dtype="bfloat16"),
        "prefix caching": refused(plain, enable_prefix_caching=True),
        "too many drafts": refused({"kvgen": {"buffer": 4}}, speculative_config=drafts),
        "connector": refused(
            plain,
            kv_transfer_config={"kv_connector": "ExampleConnector", "kv_role": "kv_both"},
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
        found["no such layers"] = refused(plain, model=folder)
    own = vllm.__version__
    vllm.__version__ = "0.99.0"
    found["unknown version"] = refused(plain)
    vllm.__version__ = own
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
