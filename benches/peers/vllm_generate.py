"""Measures vLLM's CPU build, and prints one JSON line. Samples of a prompt may share its KV cache; compilation is not timed."""

import os
import sys
import time

os.environ.update(VLLM_NO_USAGE_STATS="1", VLLM_CPU_KVCACHE_SPACE="4", VLLM_ENABLE_V1_MULTIPROCESSING="0",
                  VLLM_LOGGING_LEVEL="WARNING", VLLM_CPU_OMP_THREADS_BIND=f"0-{os.cpu_count() - 1}")
if "LD_PRELOAD" not in os.environ:
    # As vLLM's guide for CPUs asks.
    wanted = [os.path.join(sys.prefix, "lib", "libiomp5.so"), os.environ.get("TCMALLOC", "")]
    os.environ["LD_PRELOAD"] = ":".join(path for path in wanted if path and os.path.exists(path))
    os.execv(sys.executable, [sys.executable, *sys.argv])

from noise import Noise
from prompts import arguments, prompts, report


def main():
    args = arguments()
    from vllm import LLM, SamplingParams

    given = [{"prompt_token_ids": ids} for ids in prompts(args)]
    llm = LLM(model=args.model, dtype={"fp32": "float32", "bf16": "bfloat16"}[args.dtype],
              max_model_len=128 + args.new + 8, max_num_seqs=args.at_once, enable_prefix_caching=True,
              disable_log_stats=True, generation_config="vllm")

    def run(new):
        llm.reset_prefix_cache()
        how = SamplingParams(n=args.samples, temperature=1.0, max_tokens=new, ignore_eos=True, detokenize=False)
        return sum(len(c.token_ids) for o in llm.generate(given, how, use_tqdm=False) for c in o.outputs)

    run(4)
    noise, begun = Noise(), time.perf_counter()
    made = run(args.new)
    report("vllm", args, made, time.perf_counter() - begun, noise)


if __name__ == "__main__":
    main()
