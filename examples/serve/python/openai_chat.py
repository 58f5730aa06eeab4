"""OpenAI's own client against sparserun: python openai_chat.py URL MODEL [KEY]."""

import sys

from openai import OpenAI

url, model = sys.argv[1], sys.argv[2]
client = OpenAI(base_url=url + "/v1", api_key=sys.argv[3] if len(sys.argv) > 3 else "none")

# Text, streamed. Leaving the loop early, or closing the stream, cancels the request.
with client.completions.create(model=model, prompt="Once upon a time", max_tokens=32, temperature=0, stream=True) as stream:
    for chunk in stream:
        print(chunk.choices[0].text, end="", flush=True)
print()

# With counts of tokens, of which some may have been in the prefix cache.
answer = client.completions.create(model=model, prompt="Once upon a time", max_tokens=8, temperature=0)
print(answer.usage)

# A vector per text.
vectors = client.embeddings.create(model=model, input=["one river", "two rivers"])
print(len(vectors.data), "vectors of", len(vectors.data[0].embedding))

# A chat, where the model has a template for it.
try:
    chat = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Name three rivers."}], max_tokens=32)
    print(chat.choices[0].message.content)
except Exception as e:  # noqa: BLE001
    print("no chat:", e)
