"""Measures a judge that generates its answer with transformers' `generate`, and prints one JSON line.

    transformers_judge.py --model FOLDER --dtype D --input F.jsonl --at-once N --new 16

Each row of F has the `ids` of a question in one order; the judge generates `new` tokens for each, greedily.
"""

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from noise import Noise


def main():
    parser = argparse.ArgumentParser()
    for name, kind in [("model", str), ("dtype", str), ("input", str), ("at-once", int), ("new", int)]:
        parser.add_argument(f"--{name}", type=kind, required=True)
    args = parser.parse_args()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
    with open(args.input, encoding="utf-8") as file:
        ids = torch.tensor([json.loads(line)["ids"] for line in file])
    config = GenerationConfig(do_sample=False, max_new_tokens=args.new, min_new_tokens=args.new, pad_token_id=0)

    def run(rows):
        for part in rows.split(args.at_once):
            model.generate(part, attention_mask=torch.ones_like(part), generation_config=config)

    with torch.inference_mode():
        run(ids[: args.at_once])
        noise, begun = Noise(), time.perf_counter()
        run(ids)
        seconds = time.perf_counter() - begun
    print(json.dumps({"engine": "transformers", "seconds": seconds, "judgments_per_second": len(ids) / 2 / seconds,
                      **noise.shares()}))


main()
