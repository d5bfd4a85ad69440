"""Writes a model folder with random weights and a trained tokenizer for the benches: make_model.py SHAPE FOLDER [DEVICE]

SHAPE is tiny (1M parameters), small (29M), 0.6b, 1.7b, 4b, 8b (the shapes of Qwen3) or 0.6b-4-layers (the first four layers of
that shape). The weights are initialized on DEVICE (default: cpu) with a fixed seed.
"""

import json
import os
import random
import sys

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen3Config, Qwen3ForCausalLM

from text import text

SHAPES = {
    "tiny": dict(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
                 intermediate_size=384, vocab_size=2048, max_position_embeddings=4096),
    "small": dict(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4, head_dim=64,
                  intermediate_size=1536, vocab_size=8192, max_position_embeddings=8192),
    "0.6b": dict(hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128,
                 intermediate_size=3072, vocab_size=151936, max_position_embeddings=40960),
}
LARGE = dict(head_dim=128, num_key_value_heads=8, vocab_size=151936, max_position_embeddings=40960)
SHAPES["1.7b"] = dict(hidden_size=2048, num_hidden_layers=28, num_attention_heads=16, intermediate_size=6144, **LARGE)
SHAPES["4b"] = dict(hidden_size=2560, num_hidden_layers=36, num_attention_heads=32, intermediate_size=9728, **LARGE)
SHAPES["8b"] = dict(hidden_size=4096, num_hidden_layers=36, num_attention_heads=32, intermediate_size=12288, **LARGE)
SHAPES["0.6b-4-layers"] = {**SHAPES["0.6b"], "num_hidden_layers": 4}
CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def main(shape, folder, device="cpu"):
    os.makedirs(folder, exist_ok=True)
    size = SHAPES[shape]
    rng = random.Random(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    trainer = trainers.BpeTrainer(vocab_size=2048, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([text(rng, 400) for _ in range(200)], trainer)
    tokenizer.save(f"{folder}/tokenizer.json")
    with open(f"{folder}/tokenizer_config.json", "w", encoding="utf-8") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
                   "pad_token": "<|endoftext|>", "chat_template": CHATML}, file)
    torch.manual_seed(0)
    config = Qwen3Config(**size, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, tie_word_embeddings=shape != "8b",
                         eos_token_id=tokenizer.token_to_id("<|im_end|>"), bos_token_id=None)
    # Large ones are made in bf16 at once: in fp32 they may not fit the host.
    large = shape in ("1.7b", "4b", "8b")
    torch.set_default_dtype(torch.bfloat16 if large else torch.float32)
    with torch.device(device):
        model = Qwen3ForCausalLM(config)
    model.to(torch.bfloat16 if large or shape.startswith("0.6b") else torch.float32).save_pretrained(folder)
    prompts = [tokenizer.encode(text(rng, 300)).ids[:128] for _ in range(64)]
    with open(f"{folder}/prompts.json", "w", encoding="utf-8") as file:
        json.dump(prompts, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
