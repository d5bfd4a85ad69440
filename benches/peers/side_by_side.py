"""Functions that the benches share which compare xplore with other engines."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from noise import Noise

PEERS = Path(__file__).resolve().parent
ROOT = PEERS.parent.parent
MODELS = Path(os.environ.get("XPLORE_BENCH_MODELS", ROOT / "target" / "bench-models"))
INSTALLED = Path(os.environ.get("XPLORE_BENCH_PEERS", ROOT / "target" / "peers"))


def model_folder(shape):
    """Returns the model folder of a shape, and creates it if necessary."""
    folder = MODELS / shape
    if not (folder / "prompts.json").exists():
        subprocess.run([sys.executable, PEERS / "make_model.py", shape, folder], check=True)
    return folder


def watched(command, file=None):
    """Runs a command. Returns {"printed": …} or {"failed": …}, its peak resident bytes, and the time of each line of `file`."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=errors,
                                   env={**os.environ, "HF_HUB_OFFLINE": "1"})
        ended, came = 0, []
        while not ended:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG if file else 0)
            if file:
                lines = file.read_bytes().count(b"\n") if file.exists() else 0
                came += [time.perf_counter()] * (lines - len(came))
                time.sleep(0.005)
        process.returncode = os.waitstatus_to_exitcode(status)
        printed = [(stream.seek(0), stream.read())[1] for stream in (out, errors)]
    result = {"failed": (printed[1] or printed[0])[-400:]} if process.returncode else {"printed": printed[0]}
    return result, usage.ru_maxrss * 1024, came


def last_json(command, **more):
    """The last line of JSON that a command prints; {"failed": …} if there is none."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, **more)
    found = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if run.returncode or not found:
        return {"failed": (run.stderr or run.stdout)[-400:]}
    return json.loads(found[-1])


def xplore(command, rows, folder, *options):
    """Runs `xplore COMMAND --stats` on rows; its line of costs, and how much the machine did beside it."""
    Path(folder, "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    noise = Noise()
    stats = last_json([ROOT / "target/release/xplore", command, "--input", f"{folder}/in.jsonl", "--out",
                       f"{folder}/out.jsonl", "--stats", *options])
    return stats if "failed" in stats else {"engine": "xplore", **stats, **noise.shares()}


def least_disturbed(engines, repeat):
    """Runs every engine `repeat` times, in turn; for each the line that other work disturbed least."""
    best = {}
    for _ in range(repeat):
        for name, run in engines.items():
            line = run()
            disturbed = lambda l: l.get("other_cpu_share", 1) + l.get("steal_share", 1)
            if name not in best or disturbed(line) < disturbed(best[name]):
                best[name] = line
    if "failed" in best["xplore"]:
        sys.exit(f"xplore failed: {best['xplore']['failed']}")
    return best


def compare(best, key):
    """Our figure and, for each other engine, its own and how many times as large ours is."""
    ours = best["xplore"][key]
    words = [f"xplore {ours:.4g}"]
    for name, line in best.items():
        if name != "xplore":
            words.append(f"{name} {line[key]:.4g} (× {ours / line[key]:.2f})" if key in line else f"{name} failed")
    return ", ".join(words)


def commit():
    """Returns the commit of this checkout, or that of the bundle."""
    noted = ROOT / "COMMIT"
    if noted.exists():
        return noted.read_text(encoding="utf-8").strip()
    return subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def write(path, runs):
    """Writes results with the date, the commit, and a description of the machine."""
    lines = open("/proc/cpuinfo", encoding="utf-8").read().splitlines()
    field = lambda name: next((l.split(":")[1].strip() for l in lines if l.startswith(name)), "?")
    flags = field("flags").split()
    features = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    machine = {"cpu": field("model name"), "family": field("cpu family"), "model": field("model"),
               "cores": os.cpu_count(), "features": features, "system": platform.platform()}
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"date": date.today().isoformat(), "commit": commit(), "machine": machine, "runs": runs}
    # Whole or not at all, because a bench may be stopped while it writes.
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
