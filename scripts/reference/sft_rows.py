"""Prepares SFT rows with TRL and reports which tokens are trained.

    sft_rows.py JOB ANSWERS

JOB is JSON: `cases`, each with a tokenizer folder `tokenizer`, `rows` and `config` (of TRL's SFTConfig), and optionally
`parquet`, a path to which the rows are written as a Parquet table. Writes JSON to ANSWERS: for each case a list of
`{"ids", "trained"}`; `trained` is false for the first token, whose label TRL's loss drops.
"""

import json
import sys
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import torch
from datasets import Dataset
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from trl import SFTConfig, SFTTrainer


def model(tokenizer):
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                         num_attention_heads=1, num_key_value_heads=1, head_dim=8, eos_token_id=tokenizer.eos_token_id)
    return Qwen3ForCausalLM(config)


def prepared(case, folder):
    tokenizer = AutoTokenizer.from_pretrained(case["tokenizer"])
    config = SFTConfig(output_dir=folder, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
                       **case["config"])
    trainer = SFTTrainer(model(tokenizer), args=config, train_dataset=Dataset.from_list(case["rows"]),
                         processing_class=tokenizer)
    return [
        {"ids": row["input_ids"], "trained": [i > 0 and label != -100 for i, label in enumerate(row["labels"])]}
        for row in trainer.train_dataset
    ]


def main():
    job, answers = (Path(path) for path in sys.argv[1:])
    cases = json.loads(job.read_text())["cases"]
    for case in cases:
        if path := case.get("parquet"):
            # Small row groups, and a column that other readers leave empty.
            table = pyarrow.Table.from_pylist([{**row, "note": None} for row in case["rows"]])
            pyarrow.parquet.write_table(table, path, row_group_size=2, compression=case["compression"])
    with tempfile.TemporaryDirectory() as folder:
        answers.write_text(json.dumps([prepared(case, folder) for case in cases]))


main()
