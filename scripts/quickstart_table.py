"""Writes the tables of quickstart runs, and the settings that simulate the rounding of another CPU.

    quickstart_table.py rounding N          prints options of `xplore quickstart`, one per line; none for 0
    quickstart_table.py table [--note TEXT] RUN...    prints docs/quickstart-results.md, with a note on the runs
    quickstart_table.py readme RUN LOG      updates README.md, docs/quickstart.md and docs/images from a run and its log
"""

import datetime
import json
import os
import platform
import re
import shutil
import sys
import textwrap
from pathlib import Path

CONFIG = Path("configs/quickstart.toml")
COLUMNS = [(targets, judge) for judge in ("training", "second") for targets in ("in_domain", "transfer")]


def rounding(number):
    """Prints each learning rate of configs/quickstart.toml, multiplied by 1 + number * 1e-7."""
    section = ""
    for line in CONFIG.read_text().splitlines() if number else ():
        if found := re.match(r"\[(.+)\]", line):
            section = found[1]
        if found := re.match(r"lr = (\S+)", line):
            print(f"--set\n{section}.lr={float(found[1]) * (1 + number * 1e-7)!r}")


def cpu():
    """Returns the model, family and vector instruction set of the CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    of = lambda key: re.search(rf"^{key}\s*: (.*)$", text, re.M)[1].strip()
    vectors = next((name for name in ("avx512f", "avx2") if name in of("flags").split()), "no AVX2")
    return f"{of('model name')} (family {of('cpu family')}, model {of('model')}, {vectors})"


class Run:
    """The results of one quickstart run."""

    def __init__(self, folder):
        read = lambda name: json.loads((Path(folder) / name).read_text())
        lines = lambda name: [json.loads(line) for line in (Path(folder) / name).open()]
        self.name = Path(folder).name.removeprefix("quickstart-seed-").replace("-rounding-", ", rounding ")
        self.seconds = int((Path(folder) / "wall-seconds").read_text())
        self.reading = read("reading.json")
        self.metrics = lines("metrics.jsonl")
        self.accuracy = {(r["model"], r["setting"], r["targets"], r["judge"]): r for r in read("eval.json")}
        self.gain = {(r["setting"], r["targets"], r["judge"]): r for r in read("eval-gains.json")}
        users = lines("eval-users.jsonl")
        self.users = len({p["uid"] for p in users})
        self.silent = sum(p["malformed"] for p in users) / sum(p["targets_judged"] for p in users)

    def last(self, phase, key):
        """Returns the mean of a metric over the last tenth of a phase's steps."""
        values = [m[key] for m in self.metrics if m["phase"] == phase and m.get(key) is not None]
        tail = values[-max(1, len(values) // 10):]
        return sum(tail) / len(tail)

    def rewards(self, parts):
        """Returns the mean reward in each of `parts` equal parts of the RL steps."""
        values = [m["reward/total"] for m in self.metrics if m["phase"] == "rl"]
        bounds = [len(values) * i // parts for i in range(parts + 1)]
        return [sum(values[a:b]) / max(1, b - a) for a, b in zip(bounds, bounds[1:])]


def percent(value):
    return f"{100 * value:.1f}"


def interval(row, of):
    return f"{percent(row[of])} [{percent(row['ci_low'])}, {percent(row['ci_high'])}]"


def row(cells):
    print("| " + " | ".join(cells) + " |")


def head(cells):
    row(cells)
    print("|" + "---|" * len(cells))


def phases(runs):
    """Prints the results of each phase, one row per run."""
    print("\n## Results of each phase\n")
    print("Mean loss over the last tenth of the steps; percentage of histories whose evidence, and whose evidence and counts, "
          "a model lists without a mistake; mean reward in each quarter of the RL steps; share of judged choices without an "
          "answer.\n")
    head(["seed", "s", "judge", "second judge", "base", "base reads", "SFT reads", "RL reads", "reward", "no answer"])
    for run in runs:
        reads = [f"{percent(run.reading[m]['evidence'])}, {percent(run.reading[m]['net'])}" for m in ("base", "sft", "rl")]
        losses = [f"{run.last(phase, 'loss'):.3f}" for phase in ("judge", "second_judge", "base")]
        rewards = ", ".join(f"{value:.3f}" for value in run.rewards(4))
        row([run.name, str(run.seconds), *losses, *reads, rewards, f"{percent(run.silent)} %"])


def gains(runs):
    """Prints one row per run: the accuracy with RL's summaries, its gains over SFT, and the lead of the oracle."""
    print("\n## Gains of RL over SFT\n")
    print("In points, by the training judge unless noted otherwise.\n")
    head(["seed", "RL, full", "gain, full", "gain, streaming", "transferred, full", "transferred, streaming",
          "second judge, full", "second judge, streaming", "oracle over RL"])
    found = []
    for run in runs:
        cells = [interval(run.accuracy["rl", "full", "in_domain", "training"], "accuracy")]
        for targets, judge in (("in_domain", "training"), ("transfer", "training"), ("in_domain", "second")):
            cells += [interval(run.gain[setting, targets, judge], "gain") for setting in ("full", "streaming")]
        reached = run.accuracy["rl", "full", "in_domain", "training"]["accuracy"]
        lead = run.accuracy["oracle", "full", "in_domain", "training"]["accuracy"] - reached
        row([run.name, *cells, percent(lead)])
        found.append((reached, run.gain["full", "in_domain", "training"]["gain"],
                      run.gain["streaming", "in_domain", "training"]["gain"], lead))
    if len(runs) > 1:
        least, most = [min(c) for c in zip(*found)], [max(c) for c in zip(*found)]
        spans = [f"{percent(a)} to {percent(b)}" for a, b in zip(least, most)]
        row(["**all**", spans[0], spans[1], spans[2], "", "", "", "", spans[3]])


def details(run):
    """Prints all accuracies of one run."""
    print(f"\n## Seed {run.name}\n")
    head(["model", "setting", *(f"{t.replace('_', '-')}, {j} judge" for t, j in COLUMNS)])
    for model, setting in dict.fromkeys(key[:2] for key in run.accuracy):
        row([model, setting, *(interval(run.accuracy[model, setting, *column], "accuracy") for column in COLUMNS)])
    for setting in dict.fromkeys(key[0] for key in run.gain):
        row(["**RL − SFT**", setting, *(interval(run.gain[setting, *column], "gain") for column in COLUMNS)])


def table(folders):
    note = ""
    if folders[0] == "--note":
        note, folders = " " + folders[1], folders[2:]
    runs = [Run(folder) for folder in folders]
    print("# The quickstart over several seeds\n")
    print(f"Made by `scripts/quickstart-results` on {datetime.date.today()}, {os.cpu_count()} cores of {cpu()}. Accuracies in "
          f"percent and gains in points, with 95 % intervals over held-out users, gains paired by user.{note}")
    phases(runs)
    gains(runs)
    for run in runs:
        details(run)


def between(file, mark, text):
    """Replaces the text between two markers of a page."""
    page, begin, end = Path(file).read_text(), f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    before, rest = page.split(begin)
    Path(file).write_text(before + begin + text + end + rest.split(end)[1])


def readme(folder, log):
    run = Run(folder)
    reached = {model: percent(run.accuracy[model, "full", "in_domain", "training"]["accuracy"]) for model in ("sft", "rl", "oracle")}
    lines = [f"Accuracy of a judge that predicts held-out choices of {run.users} users from a summary, in percent with 95 % intervals over "
             f"users; 50 is chance. One run of `scripts/quickstart` (seed 0, {datetime.date.today()}): {run.seconds} s on "
             f"{os.cpu_count()} cores of {cpu()}, from random weights. SFT reaches {reached['sft']} %, RL {reached['rl']} %; "
             f"an oracle that knows the user reaches {reached['oracle']} %. The second judge belongs to another model family and "
             "never gives reward."]
    lines = textwrap.wrap(lines[0], 128) + [""]
    lines += ["| summary by | setting | in-domain | transferred | in-domain, second judge | transferred, second judge |",
              "|---|---|---|---|---|---|"]
    for model, setting in dict.fromkeys(key[:2] for key in run.accuracy):
        cells = (interval(run.accuracy[model, setting, *column], "accuracy") for column in COLUMNS)
        lines.append(f"| {model} | {setting} | {' | '.join(cells)} |")
    for setting in dict.fromkeys(key[0] for key in run.gain):
        cells = (interval(run.gain[setting, *column], "gain") for column in COLUMNS)
        lines.append(f"| **RL − SFT** | {setting} | {' | '.join(cells)} |")
    between("README.md", "quickstart", "\n".join(lines) + "\n")
    said = "".join(f"    {line}\n" if line.strip() else "\n" for line in Path(log).read_text().strip().splitlines())
    between("docs/quickstart.md", "log", f"\n    $ scripts/quickstart\n\n{said}\n")
    shutil.copy(Path(folder) / "figure.svg", "docs/images/quickstart.svg")


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    {"rounding": lambda number: rounding(int(number)), "table": lambda *runs: table(runs), "readme": readme}[what](*arguments)
