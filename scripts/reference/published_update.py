"""Computes the updates of a GRPO step as AlignXplore+ was trained on a number of ranks, in double precision: the loop of each
rank over its mini-batches and micro-batches, written from the description of the released run.

    published_update.py JOB ANSWERS

JOB is JSON: `cases`, each with
    name
    ranks             number of ranks
    mini_batch        number of sequences of a rank in a full mini-batch
    micro_batch       number of sequences in a micro-batch; divides `mini_batch`
    clip, dual_clip   clip range of the ratio around 1, and the upper bound of the ratio for negative advantages
    stages            for each stage its sequences in the order of sampling, each with `length` (prompt and response, tokens),
                      `logprobs` and `old` (lists of a number for each token of the response), `advantage`, and `counts`, false
                      if its tokens are masked
ANSWERS becomes JSON: for each case by name
    slots             for each sequence of each stage its rank, mini-batch, and micro-batch in the rank's mini-batch
    updates           for each mini-batch the `loss`, the mean over the ranks, and its `gradient` with respect to `logprobs`, a
                      list for each sequence of each stage
"""

import json
import sys
from pathlib import Path

import torch


def chunks(values, size):
    return [values[at:at + size] for at in range(0, len(values), size)]


def balanced(lengths, ranks):
    """Deals sequences to ranks, equally many to each, with the largest differencing method: tuples of one sequence per rank are
    merged, the two with the largest differences first, so that the long part of one meets the short part of the other.

    Sequences of length 0 fill up numbers that the ranks do not divide."""
    filled = [*lengths, *[0] * (-len(lengths) % ranks)]
    ascending = sorted((length, i) for i, length in enumerate(filled))
    tuples = [sorted(((length, 1, [(i, length)]) for length, i in some), reverse=True)
              for some in chunks(ascending, ranks)]
    while len(tuples) > 1:
        tuples.sort(key=lambda parts: (parts[0][0] - parts[-1][0], parts[0]))
        one, other = tuples.pop(), tuples.pop()
        merged = [tuple(x + y for x, y in zip(long, short, strict=True))
                  for long, short in zip(one, reversed(other), strict=True)]
        tuples.append(sorted(merged, reverse=True))
    return [sorted(i for i, _ in part[2] if i < len(lengths)) for part in tuples[0]]


def pieces(case):
    """Returns the sequences of each rank, as (stage, index)."""
    whole = []
    for stage, sequences in enumerate(case["stages"]):
        for part in balanced([sequence["length"] for sequence in sequences], case["ranks"]):
            whole += [(stage, i) for i in part]
    ends = [len(whole) * rank // case["ranks"] for rank in range(case["ranks"] + 1)]
    return [whole[begin:end] for begin, end in zip(ends, ends[1:])]


def token_losses(case, sequence, logprobs):
    ratio = torch.exp(logprobs - torch.tensor(sequence["old"], dtype=torch.float64))
    advantage = sequence["advantage"]
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - case["clip"], 1 + case["clip"]))
    return loss.clamp(max=-advantage * case["dual_clip"]) if advantage < 0 else loss


def rank_loss(case, micro_batches, leaves):
    """Returns the loss that a rank accumulates over the micro-batches of a mini-batch."""
    accumulation_steps = case["mini_batch"] // case["micro_batch"]
    total = torch.zeros((), dtype=torch.float64)
    for micro_batch in micro_batches:
        losses = [token_losses(case, case["stages"][stage][i], leaves[stage][i])
                  for stage, i in micro_batch if case["stages"][stage][i]["counts"]]
        if losses:
            total = total + torch.cat(losses).mean() / accumulation_steps
    return total


def answer(case):
    of_ranks = [chunks(piece, case["mini_batch"]) for piece in pieces(case)]
    slots = [[None] * len(sequences) for sequences in case["stages"]]
    updates = []
    for update in range(max(map(len, of_ranks))):
        leaves = [[torch.tensor(sequence["logprobs"], dtype=torch.float64, requires_grad=True) for sequence in sequences]
                  for sequences in case["stages"]]
        loss = torch.zeros((), dtype=torch.float64)
        for rank, mini_batches in enumerate(of_ranks):
            mini_batch = mini_batches[update] if update < len(mini_batches) else []
            micro_batches = chunks(mini_batch, case["micro_batch"])
            for m, micro_batch in enumerate(micro_batches):
                for stage, i in micro_batch:
                    slots[stage][i] = [rank, update, m]
            loss = loss + rank_loss(case, micro_batches, leaves) / case["ranks"]
        if loss.requires_grad:
            loss.backward()
        gradient = [[(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad).tolist() for leaf in of_stage]
                    for of_stage in leaves]
        updates.append({"loss": loss.item(), "gradient": gradient})
    return {"slots": slots, "updates": updates}


def main():
    job_file, answers = (Path(path) for path in sys.argv[1:])
    torch.set_num_threads(1)
    cases = json.loads(job_file.read_text())["cases"]
    answers.write_text(json.dumps({case["name"]: answer(case) for case in cases}))


main()
