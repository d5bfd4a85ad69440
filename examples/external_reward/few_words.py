from xplore_reward import run


def score(batch):
    limit = batch["params"].get("limit", 40)
    words = [len(r["summary"].split()) if r["summary"] else limit for r in batch["responses"]]
    return [max(0.0, 1 - n / limit) for n in words], {"words": sum(words) / len(words)}


run(score)
