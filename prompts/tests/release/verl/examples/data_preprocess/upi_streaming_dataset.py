def process_dialogue(history):
    prompt_str = "\n\n".join(
        [
            f"==Recrod {idx+1}==\nAsked: {triple['query']}\nTaken: {triple['chosen']}\nLeft: {triple['rejected']}"
            for idx, triple in enumerate(history)
        ]
    )

    full_text = f"""Read the notes and records in as short.\n==Notes==\n\nNot Provided.\n\n==Records==\n{prompt_str}\n\n==End==\n"""

    return full_text


def make_map_fn(split):
    def process_fn(example, idx):
        prompt1 = process_dialogue(example["history"][: example["mid_position"]])
        return {"prompt": [prompt1], "split": split, "index": idx}

    return process_fn
