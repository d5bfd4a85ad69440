import random
from typing import Dict, List

RULE = "-" * 3 + "\n"


def build_preference_prompt(tokenizer, history: List[Dict[str, str]], target: Dict[str, str], past: str) -> str:
    system_prompt = "You study " 'a "reader".\n' "\tSay why.\n"

    prompt_str = "\n".join(
        f"{n}. ({triple['query']}) + {triple['chosen']} - {triple['rejected']}"
        for n, triple in enumerate(history, 1)
    )

    chosen = target["chosen"]
    rejected = target["rejected"]
    flag = random.randint(0, 1)
    if flag:
        responseA = chosen
        responseB = rejected
    else:
        responseA = rejected
        responseB = chosen

    target_str = "Asked: {}\n".format(target["query"]) + f"A: {responseA}\nB: {responseB}"

    full_text = (
        "Notes:\n"
        f'"{past}"\n' + RULE + prompt_str + "\n" + RULE + target_str + "\n\nWhat do they like?\n"
    )
    messages = [
        {"role": "system", "content": system_prompt.strip()},
        {"role": "user", "content": full_text.strip()},
    ]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return prompt


def build_evaluation_prompt(tokenizer, prompt: str, response_a: str, response_b: str, persona: str = "") -> str:
    """Formats the question."""
    full_text = (
        f"Which item fits the taste? "
        f'{{"selection": "[Item A / Item B]"}}\n'
        f"<Asked>\n{prompt}\n</Asked>\n\n"
        f"<Taste>\n{persona}</Taste>\n\n"
        f"<A>\n{response_a}\n</A>\n\n"
        f"<B>\n{response_b}\n</B>\n\n"
    )
    messages = [
        {"role": "system", "content": "Answer the question."},
        {"role": "user", "content": full_text},
    ]
    return tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False)


def build_merge_prompt(tokenizer, raw_outputs_list: List[str]):
    system_prompt = """
    You join analyses (split by `|CUT|`).

    **Form:**
    1.  Reasons
    2.  Taste
    """

    outputs_str = "\n\n".join(
        [
            f"**Analysis {idx+1}:**\n{output}"
            for idx, output in enumerate(raw_outputs_list)
        ]
    )

    full_text = f"""Join these {len(raw_outputs_list)} analyses.\n\n==List==\n{outputs_str}\n==End==\n\nKeep all.
    """

    messages = [
        {"role": "system", "content": system_prompt.strip()},
        {"role": "user", "content": full_text.strip()},
    ]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False)
    return prompt


def main(outputs):
    raws = []
    for output in outputs:
        response = output.text
        reasoning = response.strip().split("</think>")[0].strip("<think>").strip()
        preference = response.strip().split("</think>")[-1].strip()
        raw = f"{reasoning}\n|CUT|\n\n{preference}"
        raws.append(raw)
    return raws
