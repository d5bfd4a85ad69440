from typing import Dict, List, Optional


def build_prompt(tokenizer, history: List[Dict[str, str]], past: Optional[str]) -> str:
    system_prompt = "You describe a reader's taste."

    prompt_str = "; ".join([f"{idx+1}) {item['chosen']!s}" for idx, item in enumerate(history)])

    full_text = """Notes: "Not Provided."
Records: {records}
Write {{short}}.""".format(records=prompt_str)

    messages = [
        {"role": "system", "content": system_prompt},
        {"role": "user", "content": full_text.strip()},
    ]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return prompt
