"""Applies the published pruning rule to flat records.

    pruning_rule.py JOB ANSWERS

JOB is JSON: `records` (`uid`, `pref_idx`, `logprob1`, `logprob2`, `signal`, `original_history_item`) and the thresholds `a`, `b`
and `c`. Writes the RL rows to ANSWERS. Only the standard library is needed.
"""

import json
import math
import sys
from itertools import combinations

NUMBERS = ("logprob1", "logprob2", "signal")


def band(records, a, b, c):
    """Returns the records in a band of 10 points by descending probability."""
    by_signal = sorted(records, key=lambda r: -r["signal"])
    most = by_signal[:max(1, int(len(by_signal) * a))]
    solvable = [r for r in most if math.log(b) <= r["logprob1"] <= 0]
    by_probability = sorted(solvable, key=lambda r: -r["logprob1"])
    n = len(by_probability)
    return by_probability[max(1, int(n * (c - 0.1))):max(1, int(n * c))]


def row(uid, candidates, records):
    """Returns the row of a user; None if no two candidates can be targets."""
    ordered = sorted(records, key=lambda r: r["pref_idx"])
    items = [r["original_history_item"] for r in ordered]
    place = {r["pref_idx"]: i for i, r in enumerate(ordered)}
    candidates = sorted(candidates, key=lambda r: -r["signal"])
    if max(place[r["pref_idx"]] for r in candidates) + 1 < 4:
        return None
    for pair in combinations(candidates, 2):
        mid, last = sorted(pair, key=lambda r: r["pref_idx"])
        history = items[:place[last["pref_idx"]] + 1]
        # The first item that equals the earlier target.
        position = history.index(mid["original_history_item"])
        if position not in (0, len(history) - 2):
            return {
                "uid": uid,
                "history": history,
                "mid_position": position,
                "mid_record": {name: mid[name] for name in NUMBERS},
                "last_record": {name: last[name] for name in NUMBERS},
                "signal_gap": last["signal"] - mid["signal"],
                "distance_to_end": len(history) - 1 - position,
            }
    return None


def main(job_file, answers):
    with open(job_file, encoding="utf-8") as file:
        job = json.load(file)
    selected = band(job["records"], job["a"], job["b"], job["c"])
    rows = []
    for uid in dict.fromkeys(r["uid"] for r in selected):
        own = [r for r in job["records"] if r["uid"] == uid]
        rows.append(row(uid, [r for r in selected if r["uid"] == uid], own))
    with open(answers, "w", encoding="utf-8") as file:
        json.dump([found for found in rows if found], file)


if __name__ == "__main__":
    main(*sys.argv[1:])
