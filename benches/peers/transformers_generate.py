"""transformers' `generate`: prints one JSON line. Temperature 1, end-of-turn tokens ignored, fixed lengths."""

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from noise import Noise


def main():
    a = argparse.ArgumentParser()
    for name, kind in [("model", str), ("prompts", int), ("samples", int), ("new", int), ("at-once", int), ("dtype", str)]:
        a.add_argument(f"--{name}", type=kind, required=True)
    a = a.parse_args()
    torch.manual_seed(0)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[a.dtype]
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype).eval()
    prompts = torch.tensor(json.load(open(f"{a.model}/prompts.json"))[: a.prompts])
    step = a.at_once // a.samples

    def run(new):
        config = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=new,
                                  num_return_sequences=a.samples, eos_token_id=None, pad_token_id=0)
        made = 0
        for part in prompts.split(step):
            out = model.generate(part, attention_mask=torch.ones_like(part), generation_config=config)
            made += out.shape[0] * (out.shape[1] - part.shape[1])
        return made

    with torch.inference_mode():
        run(4)
        noise, begun = Noise(), time.perf_counter()
        made = run(a.new)
        seconds = time.perf_counter() - begun
    assert made == a.prompts * a.samples * a.new
    print(json.dumps({"engine": "transformers", "seconds": seconds, "tokens_per_second": made / seconds, **noise.shares()}))


main()
