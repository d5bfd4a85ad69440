"""Measures TRL's GRPOTrainer on the CPU, and prints one JSON line.

    trl_grpo.py --model FOLDER --dtype D --prompts F.json --prompts-per-step P --samples S --max-new-tokens T
                --steps N --warmup W --lr R [--accumulation A] [--cache dynamic|static]

F contains prompts, lists of token IDs of the same length. Each step takes the next P prompts with S responses each, all of T
tokens. The reward of a response is the share of its token IDs divisible by 4. Fused AdamW at a constant learning rate without
weight decay, no reference model, weights and optimizer state in D. Generation is one batch, training takes A micro-batches. The
first W steps (at least one) are not timed. The time of a step is measured from the end of the previous step; tokens are those
of its responses. If the environment variable TCMALLOC names the library, that allocator is used.
"""

import os
import sys

if os.path.exists(os.environ.get("TCMALLOC", "")) and "LD_PRELOAD" not in os.environ:
    os.environ["LD_PRELOAD"] = os.environ["TCMALLOC"]
    os.execv(sys.executable, [sys.executable, *sys.argv])

import argparse
import collections
import contextlib
import json
import tempfile
import time

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from noise import Noise

datasets.disable_progress_bars()


class Watched(GRPOTrainer):
    """Takes prompts as token IDs, and sums the seconds of each phase."""

    prompts, seconds = [], collections.Counter()

    @contextlib.contextmanager
    def timed(self, phase):
        begun = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - begun

    def _tokenize_prompts(self, places):
        return [self.prompts[int(place)] for place in places], None, {}

    def _generate_single_turn(self, *args, **more):
        with self.timed("generate"):
            return super()._generate_single_turn(*args, **more)

    def _prepare_inputs(self, *args, **more):
        with self.timed("prepare"):
            return super()._prepare_inputs(*args, **more)

    def training_step(self, *args, **more):
        with self.timed("training_step"):
            return super().training_step(*args, **more)


class Clock(TrainerCallback):
    """Records the end of each step, and the CPU share of other processes during the timed steps."""

    def __init__(self, warmup):
        self.warmup, self.ends, self.noise = warmup, [], None

    def on_step_end(self, *_, **__):
        self.ends.append(time.perf_counter())
        if len(self.ends) == self.warmup:
            self.noise = Noise()
            Watched.seconds.clear()


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("prompts-per-step", "samples", "max-new-tokens", "steps", "warmup"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("model", "prompts"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--cache", choices=("dynamic", "static"), default="dynamic")
    args = parser.parse_args()
    if not 0 < args.warmup < args.steps:
        parser.error("--warmup must be at least 1 and less than --steps")
    return args


def settings(args, folder):
    return GRPOConfig(
        output_dir=folder, use_cpu=True, bf16=False, seed=0, max_steps=args.steps, num_generations=args.samples,
        per_device_train_batch_size=args.prompts_per_step * args.samples // args.accumulation,
        gradient_accumulation_steps=args.accumulation, max_completion_length=args.max_new_tokens, temperature=1.0,
        # TRL cuts responses at the end of a turn, so that must not be drawn.
        generation_kwargs={"min_new_tokens": args.max_new_tokens},
        cache_implementation=None if args.cache == "dynamic" else args.cache, beta=0.0, num_iterations=1,
        shuffle_dataset=False, gradient_checkpointing=False, optim="adamw_torch_fused", learning_rate=args.lr,
        lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False)


def main():
    args = arguments()
    with open(args.prompts, encoding="utf-8") as file:
        Watched.prompts = json.load(file)
    assert len(Watched.prompts) >= args.prompts_per_step and len({len(ids) for ids in Watched.prompts}) == 1
    made = []

    def share(completion_ids, **_):
        made.append(sum(len(ids) for ids in completion_ids))
        assert made[-1] == args.prompts_per_step * args.samples * args.max_new_tokens, made
        return [sum(token % 4 == 0 for token in ids) / len(ids) for ids in completion_ids]

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    clock = Clock(args.warmup)
    data = datasets.Dataset.from_dict({"prompt": [str(place) for place in range(len(Watched.prompts))]})
    with tempfile.TemporaryDirectory() as folder:
        trainer = Watched(model=model, processing_class=AutoTokenizer.from_pretrained(args.model), reward_funcs=share,
                          args=settings(args, folder), callbacks=[clock], train_dataset=data)
        trainer.train()
    noise, timed = clock.noise.shares(), args.steps - args.warmup
    each = lambda seconds: seconds / timed
    step, spent = each(clock.ends[-1] - clock.ends[args.warmup - 1]), Watched.seconds
    passes = each(spent["training_step"] - spent["prepare"])
    log = [line for line in trainer.state.log_history if "reward" in line]
    print(json.dumps({
        "engine": "TRL", "cache": args.cache, "accumulation": args.accumulation, "seconds_per_step": step,
        "seconds": {"generate": each(spent["generate"]), "forward_backward": passes,
                    "other": step - each(spent["generate"]) - passes},
        "tokens_per_step": made[-1], "prompt_length": len(Watched.prompts[0]),
        "losses": [float(line["loss"]) for line in log], "rewards": [float(line["reward"]) for line in log],
        "grad_norms": [float(line["grad_norm"]) for line in log], **noise}))


main()
