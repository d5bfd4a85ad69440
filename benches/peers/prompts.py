"""Command line and prompts that the peers of benches/generate share."""

import argparse
import json


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("model", "dtype"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("prompts", "samples", "new", "at-once"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args()


def prompts(args):
    with open(f"{args.model}/prompts.json", encoding="utf-8") as file:
        return json.load(file)[: args.prompts]


def report(engine, args, made, seconds, noise):
    assert made == args.prompts * args.samples * args.new, made
    print(json.dumps({"engine": engine, "seconds": seconds, "tokens_per_second": made / seconds, **noise.shares()}))
