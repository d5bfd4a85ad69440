"""Loads models and adapters with transformers and PEFT, and computes their logits.

    logits.py JOB ANSWERS

JOB is JSON: `prompts`, lists of token IDs; `models`, each with `name`, `model` (a folder) and `adapter` (the folder of an adapter
of this model, or null). Writes JSON to ANSWERS: for each model by name the `logits` after each token of each prompt, the
`warnings` of loading, and the missing and unexpected `keys` of the adapter.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from transformers import AutoModelForCausalLM


def keys(base, adapter):
    """Returns the missing and unexpected keys of an adapter's file, for which PEFT only warns."""
    model = get_peft_model(base, LoraConfig.from_pretrained(adapter))
    result = set_peft_model_state_dict(model, load_peft_weights(adapter, device="cpu"))
    return [key for key in result.missing_keys if "lora_" in key] + list(result.unexpected_keys)


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def answer(case, prompts):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = loaded(case["model"])
        if adapter := case["adapter"]:
            model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        logits = [model(torch.tensor([ids])).logits[0].tolist() for ids in prompts]
    misfits = keys(loaded(case["model"]), adapter) if adapter else []
    return {"logits": logits, "warnings": [str(w.message) for w in said], "keys": misfits}


def main():
    job_file, answers = (Path(path) for path in sys.argv[1:])
    job = json.loads(job_file.read_text())
    torch.set_num_threads(1)
    answers.write_text(json.dumps({case["name"]: answer(case, job["prompts"]) for case in job["models"]}))


main()
