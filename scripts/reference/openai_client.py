"""Sends requests to `xplore serve` with the official OpenAI client, and prints the results as one JSON object:

    openai_client.py URL MODEL KEY

The script asserts what only the client sees (types, exceptions); the calling test checks the printed results.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import openai


def main(url, model, key):
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60)
    chat = [{"role": "user", "content": "likes space and warm stories?"}]
    ask = lambda **extra: client.chat.completions.create(model=model, messages=chat, **{"max_tokens": 12, **extra})
    said = {}

    assert [m.id for m in client.models.list()] == [model]
    assert client.models.retrieve(model).id == model

    plain = ask(temperature=0)
    assert plain.object == "chat.completion" and plain.model == model
    assert plain.choices[0].message.role == "assistant" and plain.choices[0].logprobs is None
    said["greedy"] = plain.choices[0].message.content
    said["finish"] = plain.choices[0].finish_reason
    said["usage"] = plain.usage.model_dump()

    pieces, usage = [], None
    for chunk in ask(temperature=0, stream=True, stream_options={"include_usage": True}):
        assert chunk.object == "chat.completion.chunk"
        if chunk.choices:
            pieces.append(chunk.choices[0].delta.content or "")
            finish = chunk.choices[0].finish_reason
        else:
            usage = chunk.usage
    said["streamed"] = "".join(pieces)
    said["pieces"] = sum(piece != "" for piece in pieces)
    assert finish == said["finish"] and usage.model_dump() == said["usage"]

    scored = ask(temperature=0, logprobs=True, top_logprobs=5)
    content = scored.choices[0].logprobs.content
    said["logprobs"] = [t.logprob for t in content]
    said["tokens"] = [t.token for t in content]
    for t in content:
        assert len(t.top_logprobs) == 5
        assert t.token == t.top_logprobs[0].token and t.logprob == t.top_logprobs[0].logprob
        assert bytes(t.bytes).decode() == t.token
    streamed = [c for c in ask(temperature=0, logprobs=True, top_logprobs=5, stream=True) if c.choices]
    entries = [e.logprob for c in streamed if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert entries == said["logprobs"]

    again = [ask(seed=7, temperature=1.0).choices[0].message.content for _ in range(2)]
    assert again[0] == again[1]
    several = ask(n=4, seed=7, temperature=1.0)
    assert [c.index for c in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].message.content == again[0]
    said["different"] = len({c.message.content for c in several.choices})

    stop = said["greedy"][3:6]
    stopped = ask(temperature=0, stop=stop).choices[0]
    assert stopped.finish_reason == "stop", stopped
    said["stopped"] = [stopped.message.content, stop]

    for wrong, error, param in [
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"presence_penalty": 1.5}, openai.BadRequestError, "presence_penalty"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "temprature"),
        ({"model": "another"}, openai.NotFoundError, "model"),
    ]:
        try:
            client.chat.completions.create(**{"model": model, "messages": chat, **wrong})
            raise AssertionError(f"{wrong} was accepted")
        except error as e:
            assert e.body["param"] == param and e.body["message"], e.body
    try:
        openai.OpenAI(base_url=url, api_key="wrong", max_retries=0).models.list()
        raise AssertionError("a wrong key was accepted")
    except openai.AuthenticationError as e:
        assert e.body["code"] == "invalid_api_key"

    def one(seed):
        return ask(seed=seed, temperature=1.0, max_tokens=4 + seed % 20).choices[0].message.content

    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(one, range(64)))
    said["alone_and_together"] = [[one(seed), together[seed]] for seed in range(0, 64, 9)]
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
