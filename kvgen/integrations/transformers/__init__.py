"""Models of Transformers that decode with generated modules.

model = accelerate(AutoModelForCausalLM.from_pretrained(...).to("cuda"))
print(report(model))
model.generate(...)
restore(model)
"""

from __future__ import annotations

from kvgen.integrations.transformers.accelerating import accelerate, report, restore

__all__ = ["accelerate", "report", "restore"]
