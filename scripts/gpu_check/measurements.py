"""Measures speed and memory of SFT, decoding and a GRPO step, and profiles kernels."""

import json
import shutil

import torch

from .runner import Runner


def gib(planned):
    """Returns the first number of a memory estimate, in GiB."""
    number, unit = planned.split()[:2]
    return float(number) / {"MiB": 1024, "GiB": 1}[unit.strip(",;")]


class Measurements(Runner):
    # sft
    def training(self, shape, length):
        model = self.model(shape)
        parameters = sum(file.stat().st_size for file in model.glob("*.safetensors")) / 2
        room = torch.cuda.get_device_properties(0).total_memory if self.args.device == "cuda" else 16e9
        # bf16 weights, fp32 gradients, moments and master weights; all in bf16; adapters.
        more = [] if 18 * parameters < 0.8 * room else ["optimizer.state=model"] if 8 * parameters < 0.8 * room else ["lora.rank=16"]
        more += ["train.activation_checkpointing_every=1"] if shape in ("4b", "8b") else []
        config = self.config(f"sft-{shape}", model, self.args.device, "bf16", length, 8, self.args.tokens)
        lines, planned = self.fit(config, *more)
        last = lines[3:]
        mean = lambda key: sum(line[key] for line in last if line.get(key)) / len(last)
        peak = last[-1].get("memory/device_peak_gib") or last[-1].get("memory/peak_gib")
        if self.args.device == "cuda" and not mean("mfu"):
            self.bad.append(f"sft, {shape}: no MFU: the peak FLOP/s of this device is unknown; add it to trainer/src/flops.rs")
        # Copies of whole buffers, in double precision say, would show here.
        of_planned = peak / gib(planned)
        if self.args.device == "cuda" and of_planned > 1.15:
            self.bad.append(f"sft, {shape}, rows of {length}: peak memory {peak:.2f} GiB, estimated {planned}")
        return {"settings": more, "mfu": mean("mfu"), "tokens_per_second": mean("tokens") / mean("time/step"),
                "tokens": mean("tokens"), "planned": planned, "peak_gib": peak, "of_planned": of_planned}

    def sft(self, shape):
        whole = self.args.tokens
        for length in (whole, whole // 8):
            self.attempt(f"sft, {shape}, rows of {length}", lambda: self.training(shape, length))
        self.environment["XPLORE_GPU_KERNELS"] = "0"
        try:
            self.attempt(f"sft, {shape}, libtorch's kernels alone", lambda: self.training(shape, whole))
        finally:
            del self.environment["XPLORE_GPU_KERNELS"]
        self.attempt(f"sft, {shape}, torch.compile", lambda: self.peer(self.model(shape), "train", whole, 5))

    # decode
    def decoding(self, shape, batch):
        model, new = self.model(shape), self.args.new
        config = json.loads((model / "config.json").read_text())
        rows = self.place / "prompts.jsonl"
        prompts = json.loads((model / "prompts.json").read_text())
        rows.write_text("".join(json.dumps({"ids": prompts[i % len(prompts)]}) + "\n" for i in range(batch)))
        # Keys and values of a token in bf16.
        of_token = 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"]
        cache = 1.1 * batch * (max(map(len, prompts)) + new + 16) * of_token / 2**30
        printed = self.xplore("generate", "--model", model, "--dtype", "bf16", "--device", self.args.device, "--input", rows,
                              "--out", self.place / "out.jsonl", "--stats", "--max-new-tokens", new, "--max-num-seqs", batch,
                              "--kv-cache-gib", max(1.0, cache), "--temperature", 1, "--top-k", 0, "--top-p", 1, "--ignore-eos")
        stats = json.loads(printed.splitlines()[-1])
        weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        bandwidth = next((run.get("bytes_per_second") for run in self.runs if run["run"] == "ceilings"), None)
        found = {key: stats[key] for key in ("prefill_seconds", "decode_seconds", "decode_tokens_per_second", "preemptions")}
        if bandwidth:
            bytes_a_step = weights + batch * (len(prompts[0]) + new / 2) * of_token
            found["bandwidth_allows"] = batch * bandwidth / bytes_a_step
            found["share"] = found["decode_tokens_per_second"] / found["bandwidth_allows"]
        return found

    def decode(self, shape):
        batches = [int(batch) for batch in self.args.batches.split(",")]
        # Loads what the first call of a process pays for once: kernels from their cache, weights from the disk's.
        self.attempt(f"decode, {shape}, warm-up", lambda: self.decoding(shape, 1))
        for batch in batches:
            self.attempt(f"decode, {shape}, {batch} rows", lambda: self.decoding(shape, batch))
        for batch in (batches[0], batches[-1]):
            peer = lambda: self.peer(self.model(shape), "generate", batch, self.args.new)
            self.attempt(f"decode, {shape}, {batch} rows, transformers", peer)

    # grpo
    def step(self, shape):
        model, judge = self.model(shape), self.model("tiny")
        item = lambda i: {"chosen": f"item {i} likes warm stories", "rejected": f"item {i + 7} likes dry reports"}
        users = [{"uid": f"p{p}", "history": [item(p + i) for i in range(12)], "mid_position": 6} for p in range(32)]
        name, rows = f"rl-{shape}", self.place / "users.jsonl"
        config = self.place / f"{name}.toml"
        rows.write_text("".join(json.dumps(row) + "\n" for row in users))
        device = self.args.device
        config.write_text(f"""name = "{name}"
out = "{self.place}"
prompts = "compact"
[model]
path = "{model}"
dtype = "bf16"
device = "{device}"
[judge.model]
path = "{judge}"
dtype = "bf16"
device = "{device}"
[data]
train = "{rows}"
[rollout]
users_per_step = {self.args.users}
num_generations = 8
max_prompt_tokens = 1024
max_new_tokens = {self.args.new}
[[reward.terms]]
name = "brevity"
[algorithm]
micro_batch_tokens = {self.args.tokens}
zero_variance = "keep"
[train]
steps = 3
activation_checkpointing_every = 1
[optimizer]
state = "model"
[checkpoint]
at_end = false
""")
        self.xplore("rl", "--config", config)
        line = json.loads((self.place / name / "metrics.jsonl").read_text().splitlines()[-1])
        shutil.rmtree(self.place / name)
        return {key: line[key] for key in line if key.startswith(("time/", "tokens_per_second/", "memory/", "mfu"))}

    def grpo(self, shape):
        self.attempt(f"GRPO step, {shape}", lambda: self.step(shape))

    # profile
    def kernels(self, shape):
        if not shutil.which("nsys"):
            return {"left": "nsys is not installed"}
        report = self.place / "profile"
        config = self.config("profiled", self.model(shape), self.args.device, "bf16", self.args.tokens, 4, self.args.tokens)
        state = ["--set", "optimizer.state=model", "--set", "train.activation_checkpointing_every=1"]
        self.run(["nsys", "profile", "--trace=cuda", "--sample=none", "--force-overwrite=true", "-o", report, self.binary, "sft",
                  "--config", config, *state])
        shutil.rmtree(self.place / "profiled")
        table = self.run(["nsys", "stats", "--report", "cuda_gpu_kern_sum", "--format", "csv", f"{report}.nsys-rep"])
        lines = [line for line in table.splitlines() if line.count(",") >= 8]
        return {"kernels": lines[:31]}

    def profile(self, shape):
        self.attempt(f"profile, {shape}", lambda: self.kernels(shape))
