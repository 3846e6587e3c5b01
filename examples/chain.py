"""A chain in LangChain's manner: prompt | model | parser. With langchain-openai, the same gateway serves as

    ChatOpenAI(base_url="http://127.0.0.1:4180/v1", api_key="none", model="dsd-embedded")

and here are the three links without it, so that nothing has to be installed.
"""

import re
import sys
from collections.abc import Callable

from openai import OpenAI

client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none")
model = client.models.list().data[0].id


def prompt(values: dict[str, int]) -> str:
    return "What is {a} + {b}?".format(**values)


def ask(said: str) -> str:
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": said}], max_tokens=48)
    return answer.choices[0].message.content or ""


def last_number(text: str) -> int | None:
    numbers = re.findall(r"-?\d+", text)
    return int(numbers[-1]) if numbers else None


def chain(values: dict[str, int], *links: Callable) -> object:
    for link in links:
        values = link(values)
    return values


print(chain({"a": 17, "b": 25}, prompt, ask, last_number))
