"""Converts a model folder to GGUF with llama.cpp's converter: to_gguf.py LLAMA_CPP_SOURCE FOLDER fp32|bf16

Writes FOLDER/model-DTYPE.gguf. The converter identifies tokenizers by a hash and does not know ours, so it is patched to use the
pre-tokenizer of Qwen2. This has no effect on the bench, whose inputs and outputs are token IDs.
"""

import os
import sys

source, folder, dtype = sys.argv[1:]
out = f"{folder}/model-{dtype}.gguf"
sys.path[:0] = [source, os.path.join(source, "gguf-py")]
sys.argv = ["convert_hf_to_gguf.py", folder, "--outfile", out, "--outtype", {"fp32": "f32", "bf16": "bf16"}[dtype]]
import conversion.base

conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"


def no_sentencepiece(self, *_, **__):
    raise FileNotFoundError  # It reads tokenizer.json then.


conversion.base.TextModel._set_vocab_sentencepiece = no_sentencepiece
import convert_hf_to_gguf

convert_hf_to_gguf.main()
