"""Fine-tunes small random models with TRL's SFTTrainer, step by step.

    sft_steps.py JOB ANSWERS

JOB is JSON: `folder`, an empty folder; `steps`, `max_length`, `weight_decay`, `warmup` (a share of the steps); `cases`,
each with `name`, `family` (qwen3 or llama), `batch`, `accumulation`, `schedule` (of transformers), `lr`, `adapter`
(null, lora or dora), optionally `muon` (`momentum`, `ns_steps`), optionally `ema` (decay rate of a moving average of the
weights, which then computes the logits); `prompts`, lists of token IDs. The script writes `rows.jsonl`, a model to
`model-FAMILY` for each family, and the initial adapter to `FAMILY-ADAPTER`. It writes JSON to ANSWERS: for each case `loss`,
`grad_norm` (before clipping, in double precision) and `lr` of each step, and the trained model's `logits` after each token
of each prompt.
"""

import json
import random
import sys
from pathlib import Path

import datasets
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import (AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast,
                          Qwen3Config, Qwen3ForCausalLM, TrainerCallback)
from trl import SFTConfig, SFTTrainer

TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WORDS = ("warm stories about space and long dry reports from finance that nobody likes or reads twice unless night falls "
         "early over quiet harbours where small boats wait").split()
SHAPE = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 256, "initializer_range": 0.1, "bos_token_id": None, "pad_token_id": 0,
         "eos_token_id": 2}


def written_rows(path):
    draw = random.Random(7)

    def turn(role, most):
        return [{"role": role, "content": " ".join(draw.choices(WORDS, k=draw.randint(1, most)))}]

    rows = [{"prompt": turn("user", 40), "completion": turn("assistant", 60)} for _ in range(160)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def trained_tokenizer(rows):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator((row[key][0]["content"] for row in rows for key in row), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    return fast


def random_model(family, vocabulary):
    torch.manual_seed(3)
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(vocab_size=vocabulary, num_hidden_layers=2, head_dim=32,
                                            tie_word_embeddings=True, **SHAPE))
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, num_hidden_layers=3, head_dim=16,
                                        tie_word_embeddings=False, **SHAPE))


def with_adapter(model, folder, kind):
    """Adds new adapters with a nonzero B, so that both factors have gradients in the first step."""
    torch.manual_seed(5)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, use_dora=kind == "dora",
                                             task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(folder)
    return model


class Recording(SFTTrainer):
    """Sums the losses of the micro-batches of a step, and records the norm of the gradient."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.steps = []

    def training_step(self, *args, **more):
        loss = super().training_step(*args, **more)
        self.steps[-1]["loss"] += loss.double().item()
        squares = (p.grad.double().pow(2).sum() for p in self.model.parameters() if p.grad is not None)
        self.steps[-1]["grad_norm"] = sum(squares).sqrt().item()
        return loss


class Steps(TrainerCallback):
    trainer = None
    average = None

    def on_step_begin(self, *_, **__):
        self.trainer.steps.append({"loss": 0.0})

    def on_pre_optimizer_step(self, *_, optimizer, **__):
        self.trainer.steps[-1]["lr"] = optimizer.param_groups[0]["lr"]

    def on_optimizer_step(self, *_, model, **__):
        if self.average:
            self.average.update_parameters(model)


class MuonAndAdamW(torch.optim.Optimizer):
    """torch.optim.Muon for the matrices of the layers, AdamW for the rest, without decay of norms."""

    def __init__(self, model, lr, weight_decay, **muon):
        named = list(model.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and ".layers." in name]
        others = [p for name, p in named if p.ndim == 2 and ".layers." not in name]
        norms = [p for _, p in named if p.ndim == 1]
        self.parts = [
            torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw", **muon),
            torch.optim.AdamW([{"params": others, "weight_decay": weight_decay}, {"params": norms, "weight_decay": 0.0}],
                              lr=lr)]
        super().__init__([p for _, p in named], {"lr": lr})

    def step(self, closure=None):
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.param_groups[0]["lr"]
            # torch orthogonalizes in bf16, whose rounding would hide everything else.
            narrow, torch.Tensor.bfloat16 = torch.Tensor.bfloat16, torch.Tensor.clone
            part.step()
            torch.Tensor.bfloat16 = narrow


def settings(job, case):
    return SFTConfig(
        output_dir=f"{job['folder']}/trl", use_cpu=True, bf16=False, seed=0, max_steps=job["steps"],
        per_device_train_batch_size=case["batch"], gradient_accumulation_steps=case["accumulation"],
        optim="adamw_torch_fused", learning_rate=case["lr"], lr_scheduler_type=case["schedule"],
        warmup_steps=job["warmup"], weight_decay=job["weight_decay"], max_grad_norm=1.0, max_length=job["max_length"],
        completion_only_loss=True, train_sampling_strategy="sequential", gradient_checkpointing=False,
        save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False)


def trained(job, case, rows):
    folder = Path(job["folder"])
    base = folder / f"model-{case['family']}"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if kind := case["adapter"]:
        model = with_adapter(model, folder / f"{case['family']}-{kind}", kind)
    steps = Steps()
    muon = case.get("muon") and MuonAndAdamW(model, case["lr"], job["weight_decay"], **case["muon"])
    trainer = Recording(model=model, optimizers=(muon, None), processing_class=AutoTokenizer.from_pretrained(base), args=settings(job, case),
                        train_dataset=datasets.Dataset.from_list(rows), callbacks=[steps])
    steps.trainer = trainer
    if decay := case.get("ema"):
        steps.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    trainer.train()
    if steps.average:
        # In place, because the copy's forward, which TRL has wrapped, is that of the original.
        with torch.no_grad():
            for weight, average in zip(model.parameters(), steps.average.module.parameters(), strict=True):
                weight.copy_(average)
    answer = {key: [step[key] for step in trainer.steps] for key in ("loss", "grad_norm", "lr")}
    with torch.no_grad():
        answer["logits"] = [model.eval()(torch.tensor([ids])).logits[0].tolist() for ids in job["prompts"]]
    return answer


def main():
    job_file, answers = (Path(path) for path in sys.argv[1:])
    job = json.loads(job_file.read_text())
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    folder = Path(job["folder"])
    rows = written_rows(folder / "rows.jsonl")
    tokenizer = trained_tokenizer(rows)
    for family in {case["family"] for case in job["cases"]}:
        random_model(family, len(tokenizer)).save_pretrained(folder / f"model-{family}")
        tokenizer.save_pretrained(folder / f"model-{family}")
    answers.write_text(json.dumps({case["name"]: trained(job, case, rows) for case in job["cases"]}))


main()
