"""vLLM's CPU build: prints one JSON line. Samples of a prompt may share its cache; compiling is not timed."""

import argparse
import json
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


def main():
    a = argparse.ArgumentParser()
    for name, kind in [("model", str), ("prompts", int), ("samples", int), ("new", int), ("at-once", int), ("dtype", str)]:
        a.add_argument(f"--{name}", type=kind, required=True)
    a = a.parse_args()
    from vllm import LLM, SamplingParams

    prompts = [{"prompt_token_ids": p} for p in json.load(open(f"{a.model}/prompts.json"))[: a.prompts]]
    llm = LLM(model=a.model, dtype={"fp32": "float32", "bf16": "bfloat16"}[a.dtype], max_model_len=128 + a.new + 8,
              max_num_seqs=a.at_once, enable_prefix_caching=True, disable_log_stats=True, generation_config="vllm")

    def run(new):
        llm.reset_prefix_cache()
        how = SamplingParams(n=a.samples, temperature=1.0, max_tokens=new, ignore_eos=True, detokenize=False)
        return sum(len(c.token_ids) for o in llm.generate(prompts, how, use_tqdm=False) for c in o.outputs)

    run(4)
    noise, begun = Noise(), time.perf_counter()
    made = run(a.new)
    seconds = time.perf_counter() - begun
    assert made == a.prompts * a.samples * a.new
    print(json.dumps({"engine": "vllm", "seconds": seconds, "tokens_per_second": made / seconds, **noise.shares()}))


if __name__ == "__main__":
    main()
