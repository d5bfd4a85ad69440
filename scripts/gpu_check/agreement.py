"""Checks that a GPU computes what the CPU computes, and that the program finds its devices, kernels and ranks."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from .runner import Runner


class Agreement(Runner):
    def libraries(self):
        missing = [line.strip() for line in self.run(["ldd", self.binary]).splitlines() if "not found" in line]
        if missing:
            sys.exit(f"{self.binary}: {', '.join(missing)}; install torch 2.11 for this Python, and NCCL if the program was "
                     "built with --features cuda")
        cuda = self.args.device == "cuda"
        if cuda and not torch.cuda.is_available():
            sys.exit(f"torch {torch.__version__} of {sys.executable} finds no CUDA GPU. Check nvidia-smi and that this is the CUDA "
                     "build of torch; --device cpu --shapes tiny --tokens 512 tests the script itself")
        found = {"name": torch.cuda.get_device_name(0) if cuda else "cpu", "torch": torch.__version__}
        if cuda:
            found["driver"] = self.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).strip()
        return found

    def scores(self, device, dtype):
        model, rows = self.model("tiny"), self.place / "rows.jsonl"
        prompts = json.loads((model / "prompts.json").read_text())[:16]
        rows.write_text("".join(json.dumps({"ids": ids, "from": 1}) + "\n" for ids in prompts))
        lines = self.xplore("score", "--model", model, "--dtype", dtype, "--device", device, "--input", rows).splitlines()
        return [p for line in lines for p in json.loads(line)["logprobs"] if p is not None]

    def drawn(self, device, words):
        model, rows, out = self.model("tiny"), self.place / "rows.jsonl", self.place / "out.jsonl"
        prompts = json.loads((model / "prompts.json").read_text())[:32]
        rows.write_text("".join(json.dumps({"ids": ids}) + "\n" for ids in prompts))
        self.xplore("generate", "--model", model, "--dtype", "fp32", "--device", device, "--input", rows, "--out", out,
                    "--max-new-tokens", 64, "--ignore-eos", "--seed", 1, *words)
        return [json.loads(line)["ids"] for line in out.read_text().splitlines()]

    def losses(self, device, dtype):
        config = self.config("five", self.model("tiny"), device, dtype, 256, 5, 1024)
        return [line["loss"] for line in self.fit(config)[0]]

    def agreement(self):
        device = self.args.device
        self.record("device", self.libraries())
        for dtype, within in (("fp32", 1e-3), ("bf16", 0.15)):
            here_and_there = lambda: zip(self.scores("cpu", "fp32"), self.scores(device, dtype))
            self.agrees(f"log-probabilities, {dtype}", lambda: max(abs(a - b) for a, b in here_and_there()), within)
        for how, words in (("likeliest", ["--temperature", 0]), ("drawn", ["--temperature", 1, "--top-k", 0, "--top-p", 1]),
                           ("drawn of the likeliest", ["--temperature", 0.8, "--top-k", 40, "--top-p", 0.9])):
            def different():
                here, there = self.drawn("cpu", words), self.drawn(device, words)
                return sum(a != b for a, b in zip(here, there)) / len(here)
            # Rounding may decide a tie; from there on a sample is another.
            self.agrees(f"64 tokens, {how}", different, 0.1)
        for dtype, within in (("fp32", 1e-4), ("bf16", 2e-2)):
            here_and_there = lambda: zip(self.losses("cpu", "fp32"), self.losses(device, dtype))
            self.agrees(f"five steps, {dtype}", lambda: max(abs(a - b) / a for a, b in here_and_there()), within)
        if device == "cuda" and shutil.which("compute-sanitizer"):
            self.attempt("compute-sanitizer", self.sanitized)
        self.agrees("bf16 logits, share rounded", self.rounded_logits, 0.2)
        self.agrees("bf16 model's fp32 gradients, share rounded", self.rounded_gradients, 0.5)
        if device == "cuda":
            self.agrees("auto beside cuda", self.auto_apart, 0)
            self.agrees("kernels compiled by a second process", self.compiled_again, 0)
        if device == "cpu" or torch.cuda.device_count() > 1:
            self.agrees("five steps on two ranks", self.ranks_apart, 1e-4)
            self.agrees("seconds until a stopped rank is named", self.until_named, 60)
        self.attempt("ceilings", lambda: {**self.peer("-", "bandwidth"), **self.peer("-", "products")})

    def rounded_logits(self):
        """Returns the share of logits that were rounded to bf16. Differences of log-probabilities at one position are differences
        of logits; differences of bf16 logits with magnitudes between 1/64 and 4 are multiples of 2^-14."""
        model, rows = self.model("tiny"), self.place / "rows.jsonl"
        prompts = json.loads((model / "prompts.json").read_text())[:32]
        rows.write_text("".join(json.dumps({"ids": ids, "candidates": list("abcdefghijklmnop")}) + "\n" for ids in prompts))
        lines = self.xplore("score", "--model", model, "--dtype", "bf16", "--device", self.args.device, "--input",
                            rows).splitlines()
        scored = [json.loads(line)["candidates"] for line in lines]
        steps = [2**14 * (p - place[0]) for place in scored for p in place[1:]]
        return sum(abs(step - round(step)) < 0.05 for step in steps) / len(steps)

    def rounded_gradients(self):
        """Returns the share of gradient elements that were rounded to bf16. After one update without clipping and with beta1 = 0.5,
        the first moment is exactly half the gradient."""
        config = self.config("moment", self.model("tiny"), self.args.device, "bf16", 256, 1, 1024)
        changes = ["optimizer.betas=[0.5,0.999]", "optimizer.grad_clip=0", "checkpoint.at_end=true"]
        self.xplore("sft", "--config", config, *(word for change in changes for word in ("--set", change)))
        file = next((self.place / "moment/checkpoints").glob("*/trainer/optimizer.safetensors"))
        moment = load_file(file)["exp_avg"]
        shutil.rmtree(self.place / "moment")
        bits = moment[moment != 0].view(torch.int32)
        return ((bits & 0xFFFF) == 0).double().mean().item()

    def auto_apart(self):
        """Compares `auto` with `cuda`: `auto` selects an existing GPU for any local rank."""
        self.environment["LOCAL_RANK"] = "1000"
        try:
            found = self.scores("auto", "bf16")
        finally:
            del self.environment["LOCAL_RANK"]
        return max(abs(a - b) for a, b in zip(found, self.scores("cuda", "bf16")))

    def compiled_again(self):
        """Returns the number of files that a second process adds to the kernel cache, which the first process filled."""
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xplore"
        kept = lambda: {file: file.stat().st_mtime_ns for file in folder.glob("kernels-*.cubin")}
        before = kept()
        if not before:
            raise RuntimeError(f"no compiled kernels in {folder}; expected kernels-*.cubin")
        self.scores("cuda", "bf16")
        return len(set(kept().items()) - set(before.items()))

    def launch(self, name, *changes):
        """Fine-tunes on two ranks. Returns the losses and the error message, one of which is empty."""
        config = self.config(name, self.model("tiny"), self.args.device, "fp32", 256, 5, 1024)
        words = [word for change in ("parallel.sharding=full", *changes) for word in ("--set", change)]
        try:
            self.xplore("launch", "--nproc", 2, "--", "sft", "--config", config, *words)
            lines = (self.place / name / "metrics.jsonl").read_text().splitlines()
            return [json.loads(line)["loss"] for line in lines], ""
        except RuntimeError as error:
            return [], str(error)
        finally:
            shutil.rmtree(self.place / name, ignore_errors=True)

    def ranks_apart(self):
        losses, said = self.launch("two")
        if said:
            raise RuntimeError(said)
        return max(abs(a - b) / a for a, b in zip(losses, self.losses(self.args.device, "fp32")))

    def until_named(self):
        """Returns the seconds until a stopped rank is named: 20 s by missing heartbeats, before collectives time out at 40 s."""
        self.environment["XPLORE_FAULT"] = "1:stop:9:sum the"
        begun = time.monotonic()
        try:
            _, said = self.launch("stopped", "parallel.timeout_seconds=40")
        finally:
            del self.environment["XPLORE_FAULT"]
        if "rank 1 is dead or stalled" not in said or "no heartbeat for" not in said:
            raise RuntimeError(f"rank 1 was stopped, but rank 0 did not report it: {said}")
        return time.monotonic() - begun

    def sanitized(self):
        config = self.config("sanitized", self.model("tiny"), "cuda", "bf16", 256, 1, 1024)
        self.run(["compute-sanitizer", "--error-exitcode", 9, self.binary, "sft", "--config", config])
        return {"errors": 0}
