"""Writes the inputs of scripts/rehearse-alignxplore-plus: rehearsal_inputs.py XPLORE FOLDER

FOLDER has the prompt sets of a release (`prompts/`). XPLORE is the program, which renders the rows. Written are

data/sft.jsonl                 rows of the published SFT set: prompt (system, user) and completion
data/rl/*.parquet              rows as published for verl: three prompts, reward_model, extra_info
data/alignx_test_upi.jsonl     users as in the published benchmarks: userid, history, target
models/qwen3-tiny              files, configuration, tokenizer and template of the same form as those of Qwen3-8B, at toy size
models/judge-tiny              the same, with weights that answer the judge's question
sizes.json                     the numbers of rows

Everything is invented and the same on every machine. The weights are set, not trained: which token follows depends on the last
token alone, so that a model of toy size reasons, closes its reasoning, and ends.
"""

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ADJECTIVES = "quiet bold rusty amber brisk hollow tender vivid gentle narrow sunny crisp dusty royal plain distant".split()
NOUNS = "kettle lantern sonata harbor compass orchard violin glacier pepper atlas quartz saddle meadow puppet engine canyon".split()
SFT_USERS, RL_USERS, EVAL_USERS = 20, 70, 24

# The keys of Qwen3-8B's config.json; the sizes are smaller. The embedding has more rows than the tokenizer has tokens, as there.
SHAPE = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "head_dim": 16, "hidden_act": "silu",
    "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 96, "max_position_embeddings": 40960, "max_window_layers": 3,
    "model_type": "qwen3", "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False,
}
# How Qwen3's tokenizer splits a text before it merges bytes.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
THINK = ["<think>", "</think>"]
# ChatML with thinking: earlier turns lose their reasoning, and without thinking a turn opens with an empty one.
TEMPLATE = r"""{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- if loop.last %}
            {%- set content = '<think>\n' + reasoning + '\n</think>\n\n' + content %}
        {%- endif %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def item(rng, words=2):
    return f"A {rng.choice(ADJECTIVES)} {' and '.join(rng.choice(NOUNS) for _ in range(words - 1))}."


def history(rng, count, words=2):
    return [
        {"query": f"Which {rng.choice(NOUNS)}?", "chosen": item(rng, words), "rejected": item(rng, words)} for _ in range(count)
    ]


class Rows:
    """The rows, rendered by the program with the prompt sets of the release."""

    def __init__(self, program, folder):
        self.program, self.folder, self.rng = program, folder, random.Random(0)
        (folder / "data/rl").mkdir(parents=True)

    def render(self, prompts, kind, rows):
        command = [self.program, "prompts", "render", "--prompts", str(self.folder / "prompts" / prompts), "--kind", kind]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        done = subprocess.run(command, input=lines, stdout=subprocess.PIPE, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def sft(self):
        """Two rows a user, and one row whose completion the cut to data.max_length takes away."""
        inputs = []
        for _ in range(SFT_USERS):
            choices, past = history(self.rng, 8), None
            for part in (choices[:4], choices[4:]):
                liked = self.rng.choice(ADJECTIVES)
                row = {"interactions": part, "reasoning": f"They take what is {liked}.", "preference": f"Prefers {liked} things."}
                inputs.append(row | ({"past": past} if past else {}))
                past = row["preference"]
        inputs.append({"interactions": history(self.rng, 4, words=200), "reasoning": "Long.", "preference": "Cut."})
        turns = [row["messages"] for row in self.render("sft", "sft", inputs)]
        rows = [{"prompt": messages[:2], "completion": messages[2:]} for messages in turns]
        write_lines(self.folder / "data/sft.jsonl", rows)
        return [turn["content"] for messages in turns for turn in messages]

    def rl(self):
        """Rows in two files; the last two cannot be used. One prompt is longer than rollout.max_prompt_tokens."""
        users = [{"uid": str(100 + i), "history": history(self.rng, 9), "mid_position": 4} for i in range(RL_USERS)]
        users[0]["history"][1:3] = history(self.rng, 2, words=120)
        stages = self.render("rl", "rl", users)
        whole = self.render("rl", "eval", [{"interactions": user["history"][:-1]} for user in users])
        rows = []
        for index, (user, two, full) in enumerate(zip(users, stages, whole)):
            prompts = [stage["messages"][-1] for stage in two["stages"]] + [full["messages"][-1]]
            targets = [stage["target"] for stage in two["stages"]]
            names = ("prompt1", "prompt2", "full_prompt")
            info = {"split": "train", "index": index, "userid": user["uid"], "mid_position": 4, "history": user["history"]}
            rows.append({
                "data_source": "upi", "prompt": prompts, "ability": "preference",
                "reward_model": {"style": "model", "target1": targets[0], "target2": targets[1]},
                "extra_info": info | {name: prompt["content"] for name, prompt in zip(names, prompts)},
            })
        for wrong in ({"mid_position": 8}, {"history": users[1]["history"][:2]}):
            rows.append(rows[-1] | {"extra_info": rows[-1]["extra_info"] | wrong})
        for number, part in enumerate((rows[:40], rows[40:])):
            table = pyarrow.Table.from_pylist(part)
            pyarrow.parquet.write_table(table, self.folder / f"data/rl/train-{number:05}-of-00002.parquet")
        return [prompt["content"] for row in rows for prompt in row["prompt"]]

    def evaluation(self):
        choices = [history(self.rng, 9) for _ in range(EVAL_USERS)]
        users = [{"userid": i, "history": one[:-1], "target": one[-1]} for i, one in enumerate(choices)]
        write_lines(self.folder / "data/alignx_test_upi.jsonl", users)


def answer(letter):
    return f'{{"selection": "Item {letter}"}}'


def tokenizer(texts):
    tokens = Tokenizer(models.BPE())
    tokens.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"), byte_level])
    tokens.post_processor = processors.ByteLevel(trim_offsets=False)
    tokens.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1500, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokens.train_from_iterator(texts, trainer)
    tokens.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokens.add_tokens([AddedToken(text, special=False, normalized=False) for text in THINK])
    return tokens


def write_tokenizer(tokens, folder):
    folder.mkdir(parents=True)
    tokens.save(str(folder / "tokenizer.json"))
    ids = {text: tokens.token_to_id(text) for text in SPECIAL + THINK}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    write = lambda name, value: (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    write("tokenizer_config.json", {
        "add_bos_token": False, "add_prefix_space": False,
        "added_tokens_decoder": {str(i): {"content": text, "special": text in SPECIAL} | plain for text, i in ids.items()},
        "additional_special_tokens": SPECIAL[1:], "bos_token": None, "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 131072,
        "pad_token": "<|endoftext|>", "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    })
    write("generation_config.json", {
        "bos_token_id": ids["<|endoftext|>"], "do_sample": True, "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "pad_token_id": ids["<|endoftext|>"], "temperature": 0.6, "top_k": 20, "top_p": 0.95, "transformers_version": "4.51.0",
    })
    rows = 64 * (tokens.get_vocab_size() // 64 + 2)
    config = SHAPE | {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "vocab_size": rows}
    write("config.json", config)
    return config


def one(tokens, text):
    """Returns the id of a text that must be one token."""
    ids = tokens.encode(text).ids
    assert len(ids) == 1, f"{text!r} has {len(ids)} tokens"
    return ids[0]


def thinker(tokens):
    """States of a model that reasons and then summarizes: the last tokens, and the probabilities of the next token."""
    words = sorted(text for text in tokens.get_vocab() if len(text) > 4 and text[0] == "Ġ" and text[1:].isalpha())
    words = [tokens.token_to_id(text) for text in words[:32]]
    assert len(words) == 32, f"only {len(words)} words have a token of their own"
    thoughts, summary = words[::2], words[1::2]
    spread = lambda ids, total: {i: total / len(ids) for i in ids}
    open_, close, end = (tokens.token_to_id(text) for text in (*THINK, "<|im_end|>"))
    return [
        ([one(tokens, "\n")], {open_: 1.0}),
        ([open_], spread(thoughts, 1.0)),
        (thoughts, spread(thoughts, 0.85) | {close: 0.15}),
        ([close, one(tokens, "\n\n")], spread(summary, 1.0)),
        (summary, spread(summary, 0.85) | {end: 0.15}),
    ]


def judge(tokens):
    """States of a model that, if it may not think, answers Item A or Item B."""
    first, second = (tokens.encode(answer(letter)).ids for letter in "AB")
    assert len(first) == len(second) and len(set(first)) == len(first), "an answer repeats a token"
    (place,) = [i for i, (a, b) in enumerate(zip(first, second)) if a != b]
    assert 0 < place < len(first) - 1
    steps = [[i] for i in first]
    steps[place] = [first[place], second[place]]
    sources = [[one(tokens, "\n\n")], *steps]
    choice = lambda ids: {ids[0]: 1.0} if len(ids) == 1 else {ids[0]: 0.6, ids[1]: 0.4}
    nexts = [choice(step) for step in steps] + [{tokens.token_to_id("<|im_end|>"): 1.0}]
    return thinker(tokens)[:1] + list(zip(sources, nexts))


def write_weights(config, used, states, end, folder):
    """Each state has a dimension of the residual stream, which the head reads; the layers add little."""
    random_numbers = torch.Generator().manual_seed(0)
    normal = lambda *shape, std=0.02: torch.randn(*shape, generator=random_numbers) * std
    rows, width = config["vocab_size"], config["hidden_size"]
    embedding, head = normal(rows, width, std=0.005), normal(rows, width, std=0.002)
    # Rows without a token are never sampled.
    head[used:] = -1.0
    embedding[:, 0] = 1.0
    seen = set()
    # After a token of no state, the response ends.
    for dimension, (sources, following) in enumerate([((), {end: 1.0}), *states]):
        assert seen.isdisjoint(sources), "two states have the same last token"
        seen.update(sources)
        for token in sources:
            embedding[token, 0], embedding[token, dimension] = 0.0, 1.0
        for token, probability in following.items():
            # The final norm makes a state the square root of the width. Other tokens have a logit near 0.
            head[token, dimension] = (math.log(probability) + 12.0) / math.sqrt(width)
    heads, groups = (config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    inner, tensors = config["intermediate_size"], {"model.embed_tokens.weight": embedding}
    for layer in range(config["num_hidden_layers"]):
        parts = {
            "input_layernorm": torch.ones(width), "post_attention_layernorm": torch.ones(width),
            "self_attn.q_norm": torch.ones(config["head_dim"]), "self_attn.k_norm": torch.ones(config["head_dim"]),
            "self_attn.q_proj": normal(heads, width), "self_attn.k_proj": normal(groups, width),
            "self_attn.v_proj": normal(groups, width), "self_attn.o_proj": normal(width, heads, std=0.002),
            "mlp.gate_proj": normal(inner, width), "mlp.up_proj": normal(inner, width),
            "mlp.down_proj": normal(width, inner, std=0.002),
        }
        tensors |= {f"model.layers.{layer}.{name}.weight": value for name, value in parts.items()}
    tensors |= {"model.norm.weight": torch.ones(width), "lm_head.weight": head}
    save_shards({name: value.to(torch.bfloat16).contiguous() for name, value in tensors.items()}, folder)


def save_shards(tensors, folder):
    """Writes two files and their index, as large models have them."""
    names, weights = list(tensors), {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weights |= dict.fromkeys(part, file)
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def main(program, folder):
    folder = Path(folder)
    rows = Rows(program, folder)
    texts = rows.sft() + rows.rl()
    rows.evaluation()
    # What the states of the models need as single tokens is frequent.
    texts += [answer("A"), answer("B"), "system\nuser\nassistant\n", "one\n\ntwo\nthree"] * 500
    tokens = tokenizer(texts)
    for name, states in (("qwen3-tiny", thinker(tokens)), ("judge-tiny", judge(tokens))):
        config = write_tokenizer(tokens, folder / "models" / name)
        write_weights(config, tokens.get_vocab_size(), states, tokens.token_to_id("<|im_end|>"), folder / "models" / name)
    sizes = {"sft_rows": 2 * SFT_USERS, "rl_users": RL_USERS, "eval_users": EVAL_USERS}
    (folder / "sizes.json").write_text(json.dumps(sizes) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
