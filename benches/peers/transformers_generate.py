"""Measures transformers' `generate`, and prints one JSON line. Temperature 1, end-of-turn tokens ignored, fixed lengths."""

import time

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from noise import Noise
from prompts import arguments, prompts, report


def main():
    args = arguments()
    torch.manual_seed(0)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
    ids = torch.tensor(prompts(args))

    def run(new):
        config = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=new,
                                  num_return_sequences=args.samples, eos_token_id=None, pad_token_id=0)
        made = 0
        for part in ids.split(args.at_once // args.samples):
            out = model.generate(part, attention_mask=torch.ones_like(part), generation_config=config)
            made += out.shape[0] * (out.shape[1] - part.shape[1])
        return made

    with torch.inference_mode():
        run(4)
        noise, begun = Noise(), time.perf_counter()
        made = run(args.new)
        report("transformers", args, made, time.perf_counter() - begun, noise)


main()
