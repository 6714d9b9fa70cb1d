"""Bodies of requests at random, as vLLM takes them, and some that no engine takes."""

from collections.abc import Sequence
from random import Random
from typing import Any

Body = dict[str, Any]

WORDS = (
    *(
        "harbour",
        "ferry",
        "quiet",
        "hill",
        "nobody",
        "rows",
        "there",
        "night",
        "Zürich",
        "波",
        "🙂",
    ),
    *('"', "\\", "\n", "<tool_call>", "{", "</think>", "return self", "hidden_states"),
)
STOPS = (" ", "e", "in", "s", "the", "\n", "(", "_", "self")
PARAMETERS: Body = {
    "type": "object",
    "properties": {"town": {"type": "string", "enum": ["Bergen", "Ghent"]}},
    "required": ["town"],
    "additionalProperties": False,
}
SCHEMA = {"name": "answer", "schema": PARAMETERS, "strict": True}
LONGEST = 24
"""Tokens of an answer, but for those that a schema or a tool makes long, and those to be cut."""

VOCABULARY = 1_000
MARKS = (2, 3, 4, 5, 6)
"""Ids of the tiny model: the end of a message, of and around calls, and of and around thoughts."""

THINKING = {"type": "enabled", "budget_tokens": 1024}


class Bodies:
    """One method for each dialect; `said` are the texts of the caller and the model by turns."""

    def __init__(self, chance: Random, model: str) -> None:
        self._chance = chance
        self._model = model

    def words(self) -> str:
        return " ".join(self._chance.choices(WORDS, k=self._chance.randint(1, 8)))

    def chat(self, said: list[str]) -> Body:
        messages = turns(said)
        body = {"messages": messages, **self._sampling("stop"), **self._tools(_chat_tool, _named)}
        if self._odds(0.2):
            messages.insert(0, {"role": "system", "content": self.words()})
        if self._odds(0.5):
            body["max_tokens"] = self._tokens(body)
        else:
            body["max_completion_tokens"] = self._tokens(body)
        self._several(body)
        if self._odds(0.3):
            body |= {"logprobs": True, "top_logprobs": self._chance.randint(0, 3)}
        self._some(body, 0.2, return_token_ids=True)
        self._some(body, 0.05, include_reasoning=False)
        self._some(body, 0.03, use_beam_search=True, n=2, stream=False)
        self._some(body, 0.05, response_format={"type": "json_schema", "json_schema": SCHEMA})
        self._some(body, 0.1, skip_special_tokens=False)
        self._some(body, 0.2, logit_bias={str(mark): 8 for mark in self._chance.sample(MARKS, 2)})
        self._some(body, 0.05, echo=True, add_generation_prompt=False, continue_final_message=True)
        return self._finished(body, {"temperature": -1}, {"messages": "x"}, {"max_tokens": -3})

    def completions(self, said: list[str]) -> Body:
        prompts: Sequence[Any] = (
            self.words(),
            [self._chance.randrange(VOCABULARY) for _ in range(self._chance.randint(1, 40))],
            [self.words() for _ in range(self._chance.randint(1, 3))],
        )
        body = {"prompt": self._chance.choice(prompts), **self._sampling("stop")}
        body["max_tokens"] = self._tokens(body)
        self._several(body)
        self._some(body, 0.3, logprobs=self._chance.randint(0, 3))
        self._some(body, 0.2, return_token_ids=True)
        self._some(body, 0.05, echo=True)
        self._some(body, 0.03, use_beam_search=True, n=2, stream=False)
        return self._finished(body, {"temperature": -1}, {"max_tokens": -1}, {"prompt": {}})

    def messages(self, said: list[str]) -> Body:
        body = {"messages": turns(said), **self._sampling("stop_sequences", seeds=False)}
        body |= self._tools(_messages_tool, _messages_named, ("any", "tool"))
        body["max_tokens"] = self._tokens(body)
        self._some(body, 0.3, system=self.words())
        self._some(body, 0.1, system=[{"type": "text", "text": self.words()}])
        self._some(body, 0.1, metadata={"user_id": "u"})
        self._some(body, 0.05, thinking=THINKING, max_tokens=1030, stop_sequences=list(STOPS))
        return self._finished(body, {"max_tokens": -1}, {"messages": []}, {"temperature": "x"})

    def responses(self, said: list[str]) -> Body:
        body = {"input": turns(said), **self._sampling(None, seeds=False)}
        body |= self._tools(_responses_tool, _responses_named)
        body["max_output_tokens"] = self._tokens(body)
        self._some(body, 0.2, input=said[-1])
        self._some(body, 0.3, instructions=self.words())
        self._some(body, 0.2, include=["message.output_text.logprobs"], top_logprobs=2)
        self._some(body, 0.05, text={"format": {"type": "json_schema", **SCHEMA}})
        self._some(body, 0.3, store=False)
        self._some(body, 0.05, enable_response_messages=True)  # it has no equal in chat
        return self._finished(body, {"input": {}}, {"temperature": -3}, {"tools": [1]})

    def generate(self, said: list[str]) -> Body:
        count = self._chance.randint(1, 60)
        params = self._sampling("stop")
        params["max_tokens"] = self._chance.randint(1, LONGEST)
        self._several(params)
        self._some(params, 0.3, logprobs=self._chance.randint(0, 3))
        self._some(params, 0.1, skip_special_tokens=False)
        body: Body = {
            "token_ids": [self._chance.randrange(VOCABULARY) for _ in range(count)],
            "sampling_params": params,
        }
        self._some(body, 0.4, output_mode=self._chance.choice(("tokens", "text")))
        self._some(body, 0.3, return_token_ids=True)
        return self._finished(body, {"token_ids": "x"}, {"sampling_params": {"max_tokens": -1}})

    def lengthen(self, api: str, body: Body, tokens: int) -> None:
        """Have the answer be so long; a tool's grammar would end it early."""
        for name in ("tools", "tool_choice", "stop", "stop_sequences", "response_format", "text"):
            body.pop(name, None)
        names = {"responses": "max_output_tokens"}
        body.pop("max_completion_tokens", None)
        where = body.get("sampling_params", body)
        if isinstance(where, dict) and "thinking" not in body:
            where.pop("stop", None)
            where[names.get(api, "max_tokens")] = tokens
        if isinstance(where, dict) and api not in ("messages", "responses"):
            where["ignore_eos"] = True

    def _odds(self, share: float) -> bool:
        return self._chance.random() < share

    def _some(self, body: Body, share: float, **fields: Any) -> None:
        if self._odds(share):
            body |= fields

    def _sampling(self, stop: str | None, *, seeds: bool = True) -> Body:
        body: Body = {"temperature": self._chance.choice((0, 0.7, 1))}
        self._some(body, 0.2, top_p=0.9)
        if seeds:
            self._some(body, 0.4, seed=self._chance.randrange(1_000))
            self._some(body, 0.1, stop_token_ids=self._chance.sample(range(10, VOCABULARY), 40))
        if stop is not None:
            self._some(body, 0.25, **{stop: self._chance.sample(STOPS, self._chance.randint(1, 3))})
        return body

    def _several(self, body: Body) -> None:
        self._some(body, 0.25, n=self._chance.randint(2, 3))
        if body.get("n") and body["temperature"] == 0:
            body["temperature"] = 1  # vLLM refuses several that are the same

    def _tokens(self, body: Body) -> int:
        """A tool that must be called is long; cut short, it is what agents often get."""
        forced = "tool_choice" in body and body["tool_choice"] not in ("auto", "none")
        return self._chance.randint(1, 3 * LONGEST if forced else LONGEST)

    def _tools(self, tool: Body, named: Body, kinds: Sequence[str] = ("required", "named")) -> Body:
        if not self._odds(0.3):
            return {}
        choice = self._chance.choice(("auto", "none", *kinds))
        chosen: Any = named if choice in ("named", "tool") else choice
        if kinds[0] == "any" and isinstance(chosen, str):
            chosen = {"type": chosen}
        return {"tools": [tool], "tool_choice": chosen}

    def _finished(self, body: Body, *wrong: Body) -> Body:
        body = {"model": self._model, **body}
        if self._odds(0.55):
            body.setdefault("stream", True)
        if body.get("stream") and "input" not in body and self._odds(0.5):
            body["stream_options"] = {"include_usage": self._odds(0.7)}
        if self._odds(0.03):
            body |= self._chance.choice(wrong)
        return body


def turns(said: Sequence[str]) -> list[Body]:
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(said)]


_FUNCTION: Body = {"name": "weather", "description": "Of a town.", "parameters": PARAMETERS}
_chat_tool: Body = {"type": "function", "function": _FUNCTION}
_named: Body = {"type": "function", "function": {"name": "weather"}}
_messages_tool: Body = {"name": "weather", "description": "It.", "input_schema": PARAMETERS}
_messages_named: Body = {"type": "tool", "name": "weather"}
_responses_tool: Body = {"type": "function", "strict": True, **_FUNCTION}
_responses_named: Body = {"type": "function", "name": "weather"}
