"""Runs llama.cpp by its low-level Python interface, and prints one JSON line. The samples of a prompt share its prefill.

The folder must contain model-fp32.gguf or model-bf16.gguf, as written by to_gguf.py.
"""

import ctypes
import os
import time

import llama_cpp as llama

from noise import Noise
from prompts import arguments, prompts, report

CAPACITY = 2048


class Engine:
    def __init__(self, args, longest):
        model = llama.llama_model_load_from_file(
            f"{args.model}/model-{args.dtype}.gguf".encode(), llama.llama_model_default_params())
        assert model, f"{args.model}/model-{args.dtype}.gguf: llama.cpp cannot load this model"
        how = llama.llama_context_default_params()
        how.n_ctx = args.at_once // args.samples * longest + args.at_once * args.new + 256
        how.n_seq_max, how.n_batch, how.n_ubatch = args.at_once, CAPACITY, 512
        how.n_threads = how.n_threads_batch = os.cpu_count()
        how.kv_unified = True  # so that samples share the cells of their prompt
        self.context = llama.llama_init_from_model(model, how)
        self.samplers = []
        for seed in range(args.at_once):
            chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
            llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_temp(1.0))
            llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_dist(seed))
            self.samplers.append(chain)
        self.batch = llama.llama_batch_init(CAPACITY, 0, args.samples)
        self.samples = args.samples

    def put(self, token, position, sequences, wanted):
        batch, i = self.batch, self.batch.n_tokens
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, len(sequences), wanted
        for j, sequence in enumerate(sequences):
            batch.seq_id[i][j] = sequence
        batch.n_tokens = i + 1
        return i

    def decode(self):
        assert llama.llama_decode(self.context, self.batch) == 0

    def generate(self, given, new):
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        current, made = {}, 0
        at_once = max(1, CAPACITY // max(map(len, given)))
        for first in range(0, len(given), at_once):
            self.batch.n_tokens, ends = 0, []
            for number, ids in enumerate(given[first : first + at_once], first):
                sequences = range(number * self.samples, (number + 1) * self.samples)
                for position, token in enumerate(ids):
                    place = self.put(token, position, sequences, position == len(ids) - 1)
                ends.append((sequences, place, len(ids)))
            self.decode()
            for sequences, place, length in ends:
                for s in sequences:
                    current[s] = (llama.llama_sampler_sample(self.samplers[s], self.context, place), length)
                    made += 1
        for _ in range(new - 1):
            self.batch.n_tokens = 0
            places = {s: self.put(token, position, (s,), True) for s, (token, position) in current.items()}
            self.decode()
            for s, place in places.items():
                token = llama.llama_sampler_sample(self.samplers[s], self.context, place)
                current[s] = (token, current[s][1] + 1)
                made += 1
        return made


def main():
    args = arguments()
    quiet = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(quiet, ctypes.c_void_p())
    llama.llama_backend_init()
    given = prompts(args)
    engine = Engine(args, max(map(len, given)))
    step = args.at_once // args.samples
    parts = [given[i : i + step] for i in range(0, len(given), step)]
    engine.generate(parts[0], 4)
    noise, begun = Noise(), time.perf_counter()
    made = sum(engine.generate(part, args.new) for part in parts)
    report("llama.cpp", args, made, time.perf_counter() - begun, noise)


main()
