"""Runs one step of TRL's GRPOTrainer on small random models, with given rollouts and rewards.

    grpo_step.py JOB ANSWERS

JOB is JSON: `folder`, an empty folder; `cases`, each with `name`, `family` (qwen3 or llama), `loss_type`, `beta`,
`scale_rewards` and `importance_sampling_level` of TRL, and `bias_correction_kl` (TRL's use_bias_correction_kl, default
false). For each family, the script writes a reference model to `model-FAMILY` and a slightly different policy, which is
trained, to `policy-FAMILY`. It also writes `rollouts.json`, a list of prompts, each with `prompt` (token IDs), `responses`
(lists of token IDs that end with the end-of-turn token) and `rewards` (one number per response). It writes JSON to ANSWERS:
for each case `loss`, `grad_norm` (before clipping, in double precision), `aggregation_length` (the divisor of dr_grpo) and,
in the order of the rollouts, `advantages` and the log-probabilities of the response tokens under the policy (`logprobs`) and
the reference (`reference`); and `kl`, the mean divergence from the reference. `reference` and `kl` are null if beta is 0. The
temperature is 1 and the policy has sampled the responses, so all ratios are 1.
"""

import json
import os
import random
import sys
from pathlib import Path

import datasets
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast,
                          Qwen3Config, Qwen3ForCausalLM)
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import grpo_trainer

TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = ("warm stories about space and long dry reports from finance that nobody likes or reads twice unless night "
        "falls early over quiet harbours where small boats wait")
END_OF_TURN = 2
SHAPE = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 256, "initializer_range": 0.1, "bos_token_id": None, "pad_token_id": 0,
         "eos_token_id": END_OF_TURN}
NOISE = 0.02
# Sixteenths and less, so that single precision holds them and their means; the last differ by as little as TRL adds to
# their standard deviation.
REWARDS = [[0.0, 1.0, 0.25, 0.5625], [1.0, 0.0, 0.0, 0.0], [0.5, 0.5 + 2**-10, 0.5, 0.5 + 2**-11]]
PROMPT_LENGTHS = [7, 12, 4]
LONGEST = 24


def trained_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([TEXT], trainer)
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


def written_models(folder, family, tokenizer):
    """Writes a model, and a copy with noise on all its weights."""
    model = random_model(family, len(tokenizer))
    for name in ("model", "policy"):
        if name == "policy":
            with torch.no_grad():
                for weight in model.parameters():
                    weight += NOISE * torch.randn_like(weight)
        model.save_pretrained(folder / f"{name}-{family}")
        tokenizer.save_pretrained(folder / f"{name}-{family}")


def written_rollouts(path, vocabulary):
    draw = random.Random(11)

    def ids(length):
        return [draw.randrange(len(SPECIAL), vocabulary) for _ in range(length)]

    rollouts = [{"prompt": ids(length), "rewards": rewards,
                 "responses": [ids(draw.randint(2, 19)) + [END_OF_TURN] for _ in rewards]}
                for length, rewards in zip(PROMPT_LENGTHS, REWARDS, strict=True)]
    path.write_text(json.dumps(rollouts))
    return rollouts


class Recording(GRPOTrainer):
    """Records the loss and gradient norm of the step, and the quantities that TRL computes from the rollouts."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.answer = {"reference": None}

    def _get_per_token_logps_and_entropies(self, model, ids, mask, length, *args, **more):
        found = super()._get_per_token_logps_and_entropies(model, ids, mask, length, *args, **more)
        kept = mask[:, -length:].bool()
        self.answer["reference" if model is self.ref_model else "logprobs"] = [
            logprobs[counts].tolist() for logprobs, counts in zip(found[0].detach(), kept, strict=True)]
        return found

    def compute_loss(self, model, inputs, *args, **more):
        self.answer["advantages"] = inputs["advantages"].tolist()
        return super().compute_loss(model, inputs, *args, **more)

    def training_step(self, *args, **more):
        loss = super().training_step(*args, **more)
        squares = (p.grad.double().pow(2).sum() for p in self.model.parameters() if p.grad is not None)
        self.answer |= {"loss": loss.double().item(), "grad_norm": sum(squares).sqrt().item()}
        return loss


def given(rollouts):
    """Returns a function that TRL calls instead of generating; each prompt index occurs once per response."""

    def rollout(prompts, _):
        groups = [rollouts[int(place)] for place in prompts[::len(REWARDS[0])]]
        assert groups == rollouts, prompts
        flat = lambda key: [each for group in groups for each in group[key]]
        return {"prompt_ids": [group["prompt"] for group in groups for _ in group["responses"]],
                "completion_ids": flat("responses"), "logprobs": None, "given": flat("rewards")}

    return rollout


def reward(given, **_):
    return given


def settings(job, case):
    group = len(REWARDS[0])
    return GRPOConfig(
        output_dir=f"{job['folder']}/trl", use_cpu=True, bf16=False, seed=0, max_steps=1, num_iterations=1,
        per_device_train_batch_size=group * len(REWARDS), gradient_accumulation_steps=1, num_generations=group,
        max_completion_length=LONGEST, temperature=1.0, shuffle_dataset=False, loss_type=case["loss_type"],
        beta=case["beta"], scale_rewards=case["scale_rewards"],
        importance_sampling_level=case["importance_sampling_level"],
        use_bias_correction_kl=case.get("bias_correction_kl", False), optim="adamw_torch_fused", learning_rate=1e-4,
        lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, gradient_checkpointing=False,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False)


def stepped(job, case, rollouts):
    folder = Path(job["folder"])
    base, policy = (folder / f"{name}-{case['family']}" for name in ("model", "policy"))
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    # TRL loads the reference from where the model's configuration says that it is from.
    model.config.name_or_path = str(base)
    trainer = Recording(model=model, processing_class=AutoTokenizer.from_pretrained(policy), args=settings(job, case),
                        reward_funcs=reward, rollout_func=given(rollouts),
                        train_dataset=datasets.Dataset.from_dict({"prompt": [str(i) for i in range(len(rollouts))]}))
    trainer.train()
    kl = [line["kl"] for line in trainer.state.log_history if "kl" in line]
    return {**trainer.answer, "kl": kl[0] if kl else None, "aggregation_length": LONGEST}


def main():
    job_file, answers = (Path(path) for path in sys.argv[1:])
    job = json.loads(job_file.read_text())
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    # TRL shuffles the responses of a batch, which changes nothing but their order.
    grpo_trainer.shuffle_sequence_dict = lambda batch: batch
    folder, tokenizer = Path(job["folder"]), trained_tokenizer()
    rollouts = written_rollouts(folder / "rollouts.json", len(tokenizer))
    for family in {case["family"] for case in job["cases"]}:
        written_models(folder, family, tokenizer)
    answers.write_text(json.dumps({case["name"]: stepped(job, case, rollouts) for case in job["cases"]}))


main()
