from typing import Dict, List


def build_prompt(
    tokenizer,
    history: List[Dict[str, str]],
    prompt: str = "",
    response_a: str = "",
    response_b: str = "",
    enable_thinking: bool = False,
) -> str:
    """Builds the input."""

    prompt_str = "\n".join(
        [f"{idx}: {triple['chosen']}\n  {triple['rejected']}  " for idx, triple in enumerate(history)]
    )
    persona = f"""The reader's recrods:\n{prompt_str}\n==End=="""
    full_prompt = (
        f"Which record is next? "
        f'{{"selection": "[Item A / Item B]"}}\n'
        f"<Asked>\n{prompt}\n</Asked>\n"
        f"<Taste>\n{persona}</Taste>\n"
        f"<A>\n{response_a}\n</A>\n"
        f"<B>\n{response_b}\n</B>\n"
        f"ONLY the selection."
    )
    messages = [
        {"role": "system", "content": "Answer the question."},
        {"role": "user", "content": full_prompt},
    ]

    text = tokenizer.apply_chat_template(
        messages,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=enable_thinking,
    )
    return text
