"""Does vLLM run an arm here: it starts, says a few tokens, and is stepped a few times.

python benchmarks/servers/vllm_smoke.py kvgen-float32 [--model next] [--tiny]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.servers import engine, models

BATCHES = (1, 4, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("arm", choices=engine.ARMS)
    parser.add_argument("--model", default="next", choices=models.MODELS)
    parser.add_argument("--tiny", action="store_true", help="sizes for a machine without a GPU")
    args = parser.parse_args()
    engine.prepare(args.tiny)
    import torch

    started = time.time()
    shared = {"kv_cache_memory_bytes": 8 << 30, "gpu_memory_utilization": 0.05}
    llm = engine.start(
        engine.ARMS[args.arm], models.write(Path(tempfile.mkdtemp()), args.model, args.tiny),
        batches=BATCHES, tiny=args.tiny, max_model_len=512, max_num_seqs=BATCHES[-1],
        **(shared if torch.cuda.is_available() else {}),
    )  # fmt: skip
    print(f"started in {time.time() - started:.0f} s", engine.versions())
    print(engine.memory(llm))
    vocabulary = models.config(args.model, args.tiny)["vocab_size"]
    for batch in BATCHES if not args.tiny else BATCHES[:2]:
        asked = [
            (str(row), engine.prompt(row, 5 + 9 * row % 110, vocabulary), engine.greedy(48))
            for row in range(batch)
        ]
        found = engine.run(llm, asked)
        taken = (found.times[-1] - found.times[-17]) / 16 * 1e3
        print(f"batch {batch}: {taken:.2f} ms a step; first", found.outputs["0"][:16])


if __name__ == "__main__":
    main()
