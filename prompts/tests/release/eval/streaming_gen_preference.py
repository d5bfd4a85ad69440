from typing import Dict, List, Optional


def build_prompt(tokenizer, history: List[Dict[str, str]], past: Optional[str]) -> str:
    system_prompt = "You describe a reader's taste."

    prompt_str = "".join([f"{item['query']} > {item['chosen']}\n" for item in history])

    known = "Not Provided." if past is None else past
    full_text = "Notes: " + known + "\nRecords:\n" + prompt_str + "Write."

    messages = [
        {"role": "system", "content": system_prompt},
        {"role": "user", "content": full_text.strip()},
    ]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return prompt
