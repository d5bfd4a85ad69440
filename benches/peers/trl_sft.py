"""Measures TRL's SFTTrainer on the CPU, and prints one JSON line.

    trl_sft.py --model FOLDER --dtype D --input F.jsonl --steps N --warmup W --batch B --accumulation A --max-length L
               --layout padded|padding-free --lr R [--exact-norms]

Rows of prompt and completion in the order of the file, loss on the completion, fused AdamW at a constant learning rate
without weight decay, weights and optimizer state in D. The first W steps are not timed. If the environment variable TCMALLOC
names the library, that allocator is used.
"""

import os
import sys

if os.path.exists(os.environ.get("TCMALLOC", "")) and "LD_PRELOAD" not in os.environ:
    os.environ["LD_PRELOAD"] = os.environ["TCMALLOC"]
    os.execv(sys.executable, [sys.executable, *sys.argv])

import argparse
import json
import tempfile
import time

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from noise import Noise

datasets.disable_progress_bars()


class Watched(SFTTrainer):
    """Records loss and tokens of the micro-batches of each step, and the gradient norm."""

    passes, norms, exact_norms = [], [], False

    def training_step(self, model, inputs, *more, **named):
        mask = inputs.get("attention_mask")
        tokens = inputs["input_ids"].numel() if mask is None else int(mask.sum())
        loss = super().training_step(model, inputs, *more, **named)
        self.passes.append((float(loss), tokens))
        if self.exact_norms:
            squares = (p.grad.double().pow(2).sum() for p in model.parameters() if p.grad is not None)
            self.norms.append(sum(squares).sqrt().item())
        return loss


class Clock(TrainerCallback):
    """Records the end of each step, and the CPU share of other processes during the timed steps."""

    def __init__(self, warmup):
        self.warmup, self.ends, self.noise = warmup, [], None

    def on_step_end(self, *_, **__):
        self.ends.append(time.perf_counter())
        if len(self.ends) == self.warmup:
            self.noise = Noise()


def cut(rows, tokenizer, max_length):
    """Truncates IDs and labels, which TRL leaves to the caller if it does not pad."""
    for row in rows:
        render = lambda turns, **how: tokenizer.apply_chat_template(turns, return_dict=True, **how)["input_ids"]
        before = len(render(row["prompt"], add_generation_prompt=True))
        ids = render(row["prompt"] + row["completion"])[:max_length]
        if before < len(ids):
            yield {"input_ids": ids, "labels": [-100] * before + ids[before:]}


def main():
    parser = argparse.ArgumentParser()
    for name in ("steps", "warmup", "batch", "accumulation", "max-length"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("model", "dtype", "input", "layout"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--exact-norms", action="store_true", help="norms of gradients in double precision; slow")
    args = parser.parse_args()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    with open(args.input, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    padded, max_length = args.layout == "padded", args.max_length
    if not padded:
        rows, max_length = list(cut(rows, tokenizer, max_length)), None
    clock = Clock(args.warmup)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, use_cpu=True, bf16=False, max_steps=args.steps, max_length=max_length,
            padding_free=not padded, completion_only_loss=True, train_sampling_strategy="sequential",
            per_device_train_batch_size=args.batch, gradient_accumulation_steps=args.accumulation,
            gradient_checkpointing=False, optim="adamw_torch_fused", learning_rate=args.lr,
            lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, logging_steps=1,
            save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False)
        trainer = Watched(model=model, processing_class=tokenizer, args=config, callbacks=[clock],
                          train_dataset=datasets.Dataset.from_list(rows))
        trainer.exact_norms = args.exact_norms
        trainer.train()
    shares = clock.noise.shares()
    per_step = [trainer.passes[i : i + args.accumulation] for i in range(0, len(trainer.passes), args.accumulation)]
    tokens = [sum(tokens for _, tokens in passes) for passes in per_step]
    logged = [float(line["grad_norm"]) for line in trainer.state.log_history if "grad_norm" in line]
    seconds = clock.ends[-1] - clock.ends[args.warmup - 1]
    print(json.dumps({
        "engine": "TRL", "layout": args.layout, "seconds": seconds,
        "tokens_per_second": sum(tokens[args.warmup :]) / seconds, "tokens": tokens,
        "losses": [sum(loss for loss, _ in passes) for passes in per_step],
        "grad_norms": trainer.norms[args.accumulation - 1 :: args.accumulation] or logged,
        **shares}))


main()
