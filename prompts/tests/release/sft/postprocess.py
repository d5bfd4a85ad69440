from typing import Dict, List, Optional


def build_input_prompt(history: List[Dict[str, str]], past: Optional[str]):

    system_prompt = """You describe a reader's taste.\n\nA record is `(ASKED, TAKEN, LEFT)`."""

    prompt_str = "\n\n".join(
        [
            f"==Record {idx+1}==\n\nAsked:\n {triple['query']}\n{'*'*3}\nTaken:\n{triple['chosen']}\n{'*'*3}\nLeft:\n{triple['rejected']}"
            for idx, triple in enumerate(history)
        ]
    )

    full_text = f"""
Read the notes and the records.\n==Notes==\n\n{past if past is not None else "Not Provided."}\n\n==Records==
{prompt_str}\n\n==End==\n\nAnswer {{"taste": "…"}}, 100 % \\plain\\ \u2014 {{{{ no }}}} {{% tags %}}.
    """

    messages = [
        {
            "role": "system",
            "content": system_prompt,
        },
        {
            "role": "user",
            "content": full_text.strip(),
        },
    ]
    return messages


def build_output_prompt(reasoning, preference):
    completion = f"""<think>\n{reasoning}\n</think>\n\n{preference}"""
    messages = [{"role": "assistant", "content": completion}]
    return messages
