def process_dialogue(tokenizer, prompt_text):
    """
    Args:
    - prompt_text: the raw prompt
    """
    system_prompt = r"""You describe taste, without \n or {{ braces }}."""
    messages = [
        {
            "role": "system",
            "content": system_prompt,
        },
        {
            "role": "user",
            "content": prompt_text.strip(),
        },
    ]

    full_prompt = tokenizer.apply_chat_template(
        messages,
        tokenize=False,
        add_generation_prompt=True,
    )
    return full_prompt
