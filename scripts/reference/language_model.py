"""Computes reference results of small models with transformers for the tests of `lm`.

    language_model.py JOB.json ANSWERS

JOB.json holds
    make:    [{folder, family, config, seed, save: {…save_pretrained arguments}, dtype}]   models to write
    models:  [{name, folder,
               sequences: [[ids]],                        logits of each, alone and unpadded
               gradients: {weights, temperature} | null,  of sum(weight · logprob of the next token), all sequences
               greedy: [[ids]], new_tokens: n,            greedy continuations
               texts: [str],                              token ids and the text they decode to
               chats: [{messages, add_generation_prompt, enable_thinking | null}]}]
    rope:    [{name, head_dim, theta, positions}]          rotary tables, first half of cos and sin

Writes tensors to ANSWERS.safetensors under "<name>/…", and everything else to ANSWERS.json.
"""

import json
import sys

import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

FAMILIES = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


def make(job):
    """Writes a model as transformers does. Norm weights differ from 1, so that an omitted norm changes the results."""
    config_class, model_class = FAMILIES[job["family"]]
    torch.manual_seed(job["seed"])
    model = model_class(config_class(**job["config"]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
            if parameter.dim() == 1:
                parameter.add_(1.0)
    model.to(getattr(torch, job["dtype"])).save_pretrained(job["folder"], **job["save"])


def logits_and_gradients(job, model, tensors):
    for i, ids in enumerate(job["sequences"]):
        with torch.no_grad():
            tensors[f"{job['name']}/logits/{i}"] = model(torch.tensor([ids])).logits[0].contiguous()
    if job["gradients"]:
        loss = 0.0
        for ids, weights in zip(job["sequences"], job["gradients"]["weights"], strict=True):
            if len(ids) > 1:
                logits = model(torch.tensor([ids])).logits[0, :-1] / job["gradients"]["temperature"]
                picked = logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
                loss = loss + (picked * torch.tensor(weights)).sum()
        loss.backward()
        for name, parameter in model.named_parameters():
            tensors[f"{job['name']}/gradient/{name}"] = parameter.grad.contiguous()


def greedy(job, model):
    answers = []
    for ids in job["greedy"]:
        # Dynamic RoPE remembers the longest sequence of earlier calls; a short one makes it forget.
        model(torch.tensor([ids[:1]]))
        out = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=job["new_tokens"],
        )
        answers.append(out[0, len(ids) :].tolist())
    return answers


def rotations(job, tensors):
    config = Qwen3Config(
        head_dim=job["head_dim"], rope_parameters={"rope_type": "default", "rope_theta": job["theta"]}
    )
    positions = torch.tensor([job["positions"]])
    cos, sin = Qwen3RotaryEmbedding(config)(torch.zeros(1), positions)
    half = job["head_dim"] // 2
    tensors[f"{job['name']}/cos"] = cos[0, :, :half].contiguous()
    tensors[f"{job['name']}/sin"] = sin[0, :, :half].contiguous()


def words(job):
    if not job["texts"] and not job["chats"]:
        return {}
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in job["texts"]]
    chats = []
    for chat in job["chats"]:
        thinking = chat["enable_thinking"]
        extra = {} if thinking is None else {"enable_thinking": thinking}
        chats.append(
            tokenizer.apply_chat_template(
                chat["messages"], tokenize=False, add_generation_prompt=chat["add_generation_prompt"], **extra
            )
        )
    return {
        "ids": ids,
        "decoded": [tokenizer.decode(each, skip_special_tokens=True) for each in ids],
        "chats": chats,
        "chat_ids": [tokenizer.encode(text, add_special_tokens=False) for text in chats],
        "eos": tokenizer.eos_token_id,
        "pad": tokenizer.pad_token_id,
    }


def main(job_file, answers):
    with open(job_file, encoding="utf-8") as file:
        job = json.load(file)
    for each in job["make"]:
        make(each)
    tensors, report = {}, {}
    for each in job["models"]:
        model, loading = AutoModelForCausalLM.from_pretrained(
            each["folder"], dtype=torch.float32, output_loading_info=True
        )
        model.eval()
        logits_and_gradients(each, model, tensors)
        report[each["name"]] = {
            "class": type(model).__name__,
            "missing": sorted(loading["missing_keys"]),
            "unexpected": sorted(loading["unexpected_keys"]),
            "greedy": greedy(each, model),
            **words(each),
        }
    for each in job["rope"]:
        rotations(each, tensors)
    save_file(tensors, answers + ".safetensors")
    with open(answers + ".json", "w", encoding="utf-8") as file:
        json.dump(report, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
