"""Measures plain PyTorch and transformers on a device, with a model folder of the benches; prints one JSON line.

    torch_on_device.py MODEL DEVICE generate BATCH NEW     transformers' generate, bf16: tokens per second
    torch_on_device.py MODEL DEVICE train TOKENS STEPS     a training step with torch.compile, bf16 weights, fused AdamW
    torch_on_device.py - DEVICE bandwidth                  bytes per second that a large copy reads and writes
    torch_on_device.py - DEVICE products                   FLOP/s of large bf16 matrix products
"""

import json
import sys
import time

import torch


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def timed(device, run, repeat):
    synchronize(device)
    begun = time.perf_counter()
    for _ in range(repeat):
        run()
    synchronize(device)
    return (time.perf_counter() - begun) / repeat


def bandwidth(device):
    size = (4 << 30) if device == "cuda" else (256 << 20)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return {"bytes_per_second": 2 * size / timed(device, lambda: target.copy_(source), 8)}


def products(device):
    size = 8192 if device == "cuda" else 256
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    a @ b
    return {"flops_per_second": 2 * size**3 / timed(device, lambda: a @ b, 20)}


def loaded(folder, device):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device)


def generate(folder, device, batch, new):
    prompts = json.load(open(f"{folder}/prompts.json", encoding="utf-8"))
    ids = torch.tensor([prompts[i % len(prompts)] for i in range(batch)], device=device)
    model = loaded(folder, device).eval()
    run = lambda n: model.generate(ids, do_sample=True, top_k=0, max_new_tokens=n, min_new_tokens=n, pad_token_id=0,
                                   eos_token_id=None)
    with torch.inference_mode():
        run(4)
        return {"tokens_per_second": batch * new / timed(device, lambda: run(new), 1)}


def train(folder, device, tokens, steps):
    model = loaded(folder, device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids = torch.randint(0, 2000, (1, tokens), device=device)
    # On a CPU this only tries the script: the compiler takes a minute there.
    compiled = torch.compile(model, backend="inductor" if device == "cuda" else "eager")

    def step():
        compiled(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(), step()
    seconds = timed(device, step, steps)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {"tokens_per_second": tokens / seconds, "peak_bytes": peak}


def main():
    folder, device, what, *numbers = sys.argv[1:]
    numbers = [int(n) for n in numbers]
    measure = {"bandwidth": bandwidth, "products": products}.get(what)
    found = measure(device) if measure else globals()[what](folder, device, *numbers)
    print(json.dumps({"engine": "torch " + torch.__version__, **found}))


main()
