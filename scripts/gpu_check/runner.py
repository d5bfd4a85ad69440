"""Runs the program and its peers within a deadline, and writes the records."""

import json
import lzma
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from side_by_side import PEERS, commit, write
from text import text


class OutOfTime(Exception):
    pass


class Runner:
    def __init__(self, args, place):
        self.args, self.place, self.bad = args, Path(place), []
        self.runs = self.earlier()
        libraries = Path(torch.__file__).parent / "lib"
        self.environment = {**os.environ, "HF_HUB_OFFLINE": "1",
                            "LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
        self.binary = self.unpacked(Path(args.binary))
        self.ends = time.monotonic() + args.deadline

    def earlier(self):
        """Returns the records of earlier calls with the same build."""
        if not (self.args.out and self.args.out.exists()):
            return []
        found = json.loads(self.args.out.read_text())
        if found["commit"] != commit():
            sys.exit(f"{self.args.out} has records of commit {found['commit']}, but this is {commit()}; choose another --out or "
                     "remove the file")
        return found["runs"]

    def unpacked(self, binary):
        if binary.suffix != ".xz":
            return binary
        plain = self.place / binary.stem
        with lzma.open(binary) as packed, plain.open("wb") as out:
            shutil.copyfileobj(packed, out)
        plain.chmod(0o755)
        return plain

    def model(self, shape):
        """Returns a model folder with random weights. It is created once and removed when this process ends."""
        folder = self.place / f"model-{shape}"
        if not (folder / "prompts.json").exists():
            self.run([sys.executable, PEERS / "make_model.py", shape, folder, self.args.device])
        return folder

    def run(self, command):
        left = self.ends - time.monotonic()
        try:
            run = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=self.environment,
                                 timeout=max(left, 0.1))
        except subprocess.TimeoutExpired as error:
            raise OutOfTime(f"the stage exceeded its deadline of {self.args.deadline} s") from error
        if run.returncode:
            raise RuntimeError((run.stderr or run.stdout)[-600:])
        return run.stdout

    def xplore(self, *arguments):
        return self.run([self.binary, *arguments])

    def peer(self, model, *arguments):
        printed = self.run([sys.executable, PEERS / "torch_on_device.py", model, self.args.device, *arguments])
        return json.loads(printed.splitlines()[-1])

    def record(self, what, numbers):
        print(what, json.dumps(numbers), flush=True)
        self.runs = [run for run in self.runs if run["run"] != what] + [{"run": what, **numbers}]
        if self.args.out:
            write(self.args.out, self.runs)

    def attempt(self, what, measure):
        try:
            self.record(what, measure())
        except OutOfTime:
            raise
        except Exception as error:  # whatever it is, the rest of the machine's time is not to be lost
            self.record(what, {"failed": (str(error) or repr(error))[-600:]})

    def stage(self, name, run):
        self.ends = time.monotonic() + self.args.deadline
        begun = time.monotonic()
        try:
            run()
        except OutOfTime as error:
            self.record(f"stage {name}", {"failed": str(error)})
            if name == "agreement":
                self.bad.append(f"stage agreement: {error}")
        else:
            self.record(f"stage {name}", {"seconds": round(time.monotonic() - begun, 1)})

    def agrees(self, what, measure, within):
        try:
            apart = measure()
        except OutOfTime:
            raise
        except Exception as error:
            self.bad.append(f"{what}: {(str(error) or repr(error))[-600:]}")
            self.record(what, {"failed": (str(error) or repr(error))[-600:]})
            return
        if not apart <= within:
            self.bad.append(f"{what}: difference of {apart:.3g}, expected at most {within}")
        self.record(what, {"apart": apart, "within": within})

    def config(self, name, model, device, dtype, length, steps, tokens):
        """Writes an SFT configuration: rows of exactly `length` tokens, `tokens` per step, in one micro-batch."""
        rows, rng = self.place / f"rows-{length}.jsonl", random.Random(1)
        # A word has at least one token; what is too long is cut.
        rows.write_text("".join(json.dumps({"text": text(rng, length)}) + "\n" for _ in range(4 * tokens // length)))
        config = self.place / f"{name}.toml"
        config.write_text(f"""name = "{name}"
out = "{self.place}"
[model]
path = "{model}"
dtype = "{dtype}"
device = "{device}"
[data]
train = "{rows}"
loss_on = "all"
max_length = {length}
[train]
epochs = 99
max_steps = {steps}
batch_size = {tokens // length}
micro_batch_tokens = {tokens}
[optimizer]
lr = 1e-4
warmup_ratio = 0.0
[checkpoint]
at_end = false
[metrics]
tensorboard = false
""")
        return config

    def fit(self, config, *more):
        """Returns the metrics of a run and its planned memory."""
        name = config.stem
        changes = [word for change in more for word in ("--set", change)]
        planned = self.xplore("config", "check", config, "--kind", "sft", *changes)
        self.xplore("sft", "--config", config, *changes)
        lines = [json.loads(line) for line in (self.place / name / "metrics.jsonl").read_text().splitlines()]
        shutil.rmtree(self.place / name)
        passes = next((line.split(None, 1)[1] for line in planned.splitlines() if line.split()[:1] == ["passes"]), "?")
        return lines, passes
