"""Checks the results of scripts/rehearse-alignxplore-plus, in its folder: rehearsal_checks.py [--explain KEY=REASON]…

The reasons are those that were given to `xplore certify`. Fails at the first result that is not as expected.
"""

import json
import math
import re
import sys
from pathlib import Path

SFT, RL, EVAL = (Path("runs") / f"{stage}-alignxplore-plus" for stage in ("sft", "rl", "eval"))
# Measurements of time and memory. All other metrics are functions of the configuration.
MEASURED = re.compile(r"time/|memory/|mfu$|tflops_per_second$")
# Of the presets and of `rl` in the script.
EPOCHS, USERS_PER_STEP, SAMPLES, STAGES, MINIBATCHES = 4, 32, 4, 2, 4


def load(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def equal(found, expected, what):
    assert found == expected, f"{what}: {found}; expected {expected}"


def between(found, low, high, what):
    assert low <= found <= high, f"{what}: {found}; expected {low} to {high}"


def checkpoints(run):
    return sorted(path.name for path in (run / "checkpoints").glob("step-??????"))


def sft(rows):
    """The steps follow from the published formulas; a killed and resumed run equals an uninterrupted one."""
    batch = 16 * math.ceil(rows / (16 * 529))
    per_epoch = math.ceil(rows / batch)
    steps, ends = EPOCHS * per_epoch, [f"step-{epoch * per_epoch:06}" for epoch in range(1, EPOCHS + 1)]
    resumed, whole = metrics(SFT), metrics(SFT.with_name("sft-uninterrupted"))
    equal([line["step"] for line in whole], list(range(1, steps + 1)), "steps of SFT")
    equal(sum(line["sequences"] for line in whole), EPOCHS * rows, "rows of all epochs")
    equal(whole[-1]["epoch"], EPOCHS, "epochs of SFT")
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 and not line["skipped"] for line in whole), "an update failed"
    computed = lambda lines: [{key: value for key, value in line.items() if not MEASURED.match(key)} for line in lines]
    for ours, theirs in zip(computed(resumed), computed(whole), strict=True):
        equal(ours, theirs, f"metrics of the resumed run at step {theirs['step']}")
    log = Path("logs/sft-uninterrupted.log").read_text(encoding="utf-8")
    equal(sorted(set(re.findall(r"wrote \S+/(step-\d+)", log))), ends, "checkpoints at the ends of the epochs")
    weights = {}
    for run in (SFT, SFT.with_name("sft-uninterrupted")):
        equal(checkpoints(run), ends[-2:], f"kept checkpoints of {run}")
        weights[run] = [(run / "checkpoints" / name / "model.safetensors").read_bytes() for name in ends[-2:]]
    before, after = weights[SFT]
    assert before != after, "the last epoch changed no weight"
    assert weights[SFT] == weights[SFT.with_name("sft-uninterrupted")], "the weights of the resumed run differ"
    return steps


def rl(users, sft_steps):
    """The steps follow from the users; each has 4 updates, judged responses and groups with an advantage."""
    lines, steps = metrics(RL), users // USERS_PER_STEP
    equal([line["step"] for line in lines], list(range(1, steps + 1)), "steps of RL")
    for line in lines:
        at = f"step {line['step']} of RL"
        equal(line["updates"], MINIBATCHES, f"updates in {at}")
        equal(line["responses/updated"], USERS_PER_STEP * STAGES * SAMPLES, f"responses in {at}")
        equal(line["skipped"], 0, f"skipped updates in {at}")
        between(line["well_formed"], 0.5, 1.0, f"share of well-formed responses in {at}")
        between(line["no_answer"], 0.0, 0.2, f"share without an answer of the judge in {at}")
        between(line["zero_variance"], 0.0, 0.9, f"share of groups without variance in {at}")
        assert line["grad_norm"] > 0 and math.isfinite(line["grad_norm"]), f"gradient norm in {at}: {line['grad_norm']}"
    equal(checkpoints(RL), [f"step-{steps:06}"], "checkpoints of RL")
    policy = load(RL / "models.json")["model.path"]
    expected = {"path": str(SFT), "resolved": str(SFT / "checkpoints" / f"step-{sft_steps:06}")}
    equal(policy, expected, "the checkpoint that the policy starts from")
    return steps


def evaluation(users):
    rows = [row for row in load(EVAL / "eval.json") if row["targets"] == "in_domain"]
    found = sorted({(row["model"], row["setting"]) for row in rows})
    expected = [("none", "direct"), ("none", "full"), ("rl", "full"), ("rl", "streaming"), ("sft", "full"), ("sft", "streaming")]
    equal(found, expected, "evaluated models and settings")
    for row in rows:
        equal((row["users"], row["targets_judged"]), (users, users), f"users and targets of {row['model']}, {row['setting']}")
        between(row["no_answer"], 0.0, 0.2, f"share without an answer of {row['model']}, {row['setting']}")


def certificate(reasons, last_steps):
    """Every published setting is the same, or is one that the rehearsal changes and explains."""
    found = load("certificate/certificate.json")
    assert Path("certificate/certificate.md").stat().st_size > 0
    differing = {}
    for run in found["runs"]:
        differing |= {s["key"]: s["reason"] for s in run["settings"] if s["agreement"] != "same"}
    equal(sorted(differing), sorted(reasons), "settings that differ")
    equal(found["counts"]["unexplained"], 0, "unexplained deviations")
    assert all(differing.values()), f"settings without a reason: {differing}"
    equal(found["skipped"], [], "what the certificate skips")
    equal({run["stage"]: run["last_step"] for run in found["runs"]}, last_steps, "last steps")
    roles = {run["stage"]: {file["role"] for file in run["files"]} for run in found["runs"]}
    trained = {"config", "data", "model", "checkpoint"}
    expected = {"sft": trained, "rl": trained | {"judge"}, "eval": {"config", "users", "model", "judge"}}
    equal(roles, expected, "hashed files")
    compared = sorted((score["model"], score["setting"], score["published"]) for score in found["scores"])
    both = {"full": 0.7503, "streaming": 0.7367}
    expected = [(model, setting, both[setting]) for model in ("rl", "sft") for setting in both]
    equal([(model, setting, round(score, 6)) for model, setting, score in compared], expected, "compared scores")


def main(arguments):
    reasons = dict(text.split("=", 1) for text in arguments if text != "--explain")
    sizes = load("sizes.json")
    sft_steps = sft(sizes["sft_rows"])
    rl_steps = rl(sizes["rl_users"], sft_steps)
    evaluation(sizes["eval_users"])
    certificate(reasons, {"sft": sft_steps, "rl": rl_steps, "eval": None})


if __name__ == "__main__":
    main(sys.argv[1:])
