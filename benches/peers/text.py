"""Text for benches."""


def text(rng, words):
    """Pseudo-words whose frequencies fall off as in natural text, so that the tokenizer finds pairs to merge."""
    lexicon = [
        "".join(rng.choice("bcdfglmnprst") + rng.choice("aeiou") for _ in range(1 + i % 3)) for i in range(2000)
    ]
    weights = [1 / (i + 8) for i in range(len(lexicon))]
    return " ".join(rng.choices(lexicon, weights, k=words))
