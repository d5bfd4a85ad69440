"""Computes policy-gradient losses and their gradients in double precision, from the formulas of the papers.

    policy_loss.py JOB ANSWERS

JOB is JSON: `cases`, each with
    name
    loss                    clip (PPO, arXiv 1707.06347) or cispo (arXiv 2506.13585)
    ratio                   token, or sequence (GSPO, arXiv 2507.18071)
    aggregation             token_mean, sequence_mean_token_mean, sequence_mean_token_sum, constant, which divides by
                            the number of sequences and `aggregation_length` (Dr. GRPO, arXiv 2503.20783), or
                            micro_batch_token_mean: the sum over micro-batches of the mean over the tokens of their
                            sequences (`micro_batch` of each), divided by `micro_batches`
    clip_low, clip_high     clip range of the ratio below and above 1
    dual_clip               0, or the upper bound of the ratio for negative advantages (arXiv 1912.09729)
    kl                      `coefficient`, `estimator` (k1, k2 or k3) and `place`: loss, or reward, which adds nothing
                            here; `bias_correction`, false if not given, multiplies it by the ratio (arXiv 2512.02556)
    entropy_coefficient     coefficient of the entropy bonus of each token
    rollout_correction      none, token or sequence: how likely `old` makes a token, or all of the sequence, beside
                            `rollout`, at most `rollout_correction_cap`, times the term of the policy
    sequences               each with `logprobs`, `old`, `rollout`, `reference` (or null), `entropy`, lists of a number
                            for each token; `advantage`; and `masked`, true if it counts for nothing
ANSWERS becomes JSON: for each case by name the `loss` and its gradients, `logprob_gradient` and `entropy_gradient`, a
list for each sequence. No sequence may be empty.
"""

import json
import sys
from pathlib import Path

import torch

ESTIMATORS = {"k1": lambda d: d, "k2": lambda d: d.square() / 2, "k3": lambda d: torch.exp(-d) - 1 + d}
# What a token of a sequence counts, given the job's case and the lengths of this, of all unmasked sequences, and of those in
# its micro-batch.
WEIGHTS = {
    "token_mean": lambda case, length, lengths, near: 1 / sum(lengths),
    "sequence_mean_token_mean": lambda case, length, lengths, near: 1 / (len(lengths) * length),
    "sequence_mean_token_sum": lambda case, length, lengths, near: 1 / len(lengths),
    "constant": lambda case, length, lengths, near: 1 / (len(lengths) * case["aggregation_length"]),
    "micro_batch_token_mean": lambda case, length, lengths, near: 1 / (case["micro_batches"] * sum(near)),
}


def doubles(values, leaf=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=leaf)


def ratios(case, logprobs, old):
    """Returns the probability ratio of each token; at sequence level, the geometric mean over the sequence for each token."""
    apart = logprobs - old
    return torch.exp({"token": apart, "sequence": apart.mean().expand_as(apart)}[case["ratio"]])


def policy(case, ratio, logprobs, advantage):
    bounded = ratio.clamp(1 - case["clip_low"], 1 + case["clip_high"])
    if case["loss"] == "cispo":
        return -bounded.detach() * advantage * logprobs
    assert case["loss"] == "clip", case["loss"]
    loss = torch.maximum(-advantage * ratio, -advantage * bounded)
    if advantage < 0 and case["dual_clip"] > 0:
        loss = loss.clamp(max=-advantage * case["dual_clip"])
    return loss


def correction(case, sequence):
    """Returns the constant importance weight of tokens that were sampled by another policy than `old`."""
    if case["rollout_correction"] == "none":
        return 1.0
    apart = doubles(sequence["old"]) - doubles(sequence["rollout"])
    return torch.exp({"token": apart, "sequence": apart.sum()}[case["rollout_correction"]]).clamp(
        max=case["rollout_correction_cap"])


def terms(case, sequence, logprobs, entropy):
    """Returns the loss of each token of a sequence."""
    ratio = ratios(case, logprobs, doubles(sequence["old"]))
    loss = correction(case, sequence) * policy(case, ratio, logprobs, sequence["advantage"])
    kl = case["kl"]
    if kl["place"] == "loss" and kl["coefficient"]:
        divergence = ESTIMATORS[kl["estimator"]](logprobs - doubles(sequence["reference"]))
        loss = loss + kl["coefficient"] * divergence * (ratio if kl.get("bias_correction") else 1.0)
    return loss - case["entropy_coefficient"] * entropy


def answer(case):
    leaves = [[doubles(sequence[key], leaf=True) for key in ("logprobs", "entropy")] for sequence in case["sequences"]]
    counted = [pair for pair in zip(case["sequences"], leaves, strict=True) if not pair[0]["masked"]]
    lengths = [len(sequence["logprobs"]) for sequence, _ in counted]
    loss = doubles(0.0)
    for (sequence, (logprobs, entropy)), length in zip(counted, lengths, strict=True):
        near = [len(other["logprobs"]) for other, _ in counted if other.get("micro_batch") == sequence.get("micro_batch")]
        weight = WEIGHTS[case["aggregation"]](case, length, lengths, near)
        loss = loss + weight * terms(case, sequence, logprobs, entropy).sum()
    if counted:
        loss.backward()
    gradients = [[torch.zeros_like(x) if x.grad is None else x.grad for x in pair] for pair in leaves]
    return {"loss": loss.item(), "logprob_gradient": [logprobs.tolist() for logprobs, _ in gradients],
            "entropy_gradient": [entropy.tolist() for _, entropy in gradients]}


def main():
    job_file, answers = (Path(path) for path in sys.argv[1:])
    torch.set_num_threads(1)
    cases = json.loads(job_file.read_text())["cases"]
    answers.write_text(json.dumps({case["name"]: answer(case) for case in cases}))


main()
