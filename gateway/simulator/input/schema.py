"""JSON that fits a JSON Schema: the arguments of tool calls, and structured output."""

import json
from collections.abc import Mapping
from random import Random

from gateway.simulator.engine import words
from gateway.simulator.input.refusals import bad_request

Schema = Mapping[str, object]

_MAX_DEPTH = 8
_NOUNS = words.NOUNS.split()
_ADJECTIVES = words.ADJECTIVES.split()


def instance(schema: Schema, chance: Random) -> str:
    """Return a JSON text that fits `schema`.

    Supports types, properties, items, enum, const, anyOf, oneOf, minimum, maximum and references,
    and no other keyword. Every property is given, required or not. Raises Refused for a bad type,
    as the engine's grammar does, or for an unknown reference.
    """
    return json.dumps(_Writer(schema, chance).value(schema, 0))


class _Writer:
    def __init__(self, root: Schema, chance: Random) -> None:
        self._root = root
        self._chance = chance

    def value(self, schema: Schema, depth: int) -> object:
        schema = self._followed(schema)
        if "const" in schema:
            return schema["const"]
        choices = schema.get("enum")
        if isinstance(choices, list) and choices:
            return self._chance.choice(choices)
        return self._of_type(_type_of(schema), schema, depth)

    def _followed(self, schema: Schema) -> Schema:
        """Return `schema`, or the target of its reference or of its first alternative."""
        for _ in range(_MAX_DEPTH):
            reference = schema.get("$ref")
            options = schema.get("anyOf") or schema.get("oneOf")
            if isinstance(reference, str):
                schema = self._at(reference)
            elif isinstance(options, list) and options and isinstance(options[0], dict):
                schema = options[0]
            else:
                return schema
        return {}

    def _at(self, reference: str) -> Schema:
        place: object = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            place = place.get(step) if isinstance(place, Mapping) else None
        if not isinstance(place, Mapping):
            raise bad_request(f"Grammar error: Cannot resolve reference: {reference}")
        return place

    def _of_type(self, kind: str, schema: Schema, depth: int) -> object:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                items = schema.get("items")
                fits = isinstance(items, Mapping) and depth < _MAX_DEPTH
                return [self.value(items, depth + 1)] if fits and isinstance(items, Mapping) else []
            case "string":
                return f"{self._chance.choice(_ADJECTIVES)} {self._chance.choice(_NOUNS)}"
            case "integer":
                return self._whole(schema)
            case "number":
                return self._whole(schema) + self._chance.choice((0.0, 0.25, 0.5))
            case "boolean":
                return self._chance.random() < 0.5
            case "null":
                return None
            case _:
                raise bad_request(f"Grammar error: Invalid type: {kind}")

    def _object(self, schema: Schema, depth: int) -> dict[str, object]:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping) or depth >= _MAX_DEPTH:
            return {}
        return {
            str(name): self.value(inner, depth + 1)
            for name, inner in properties.items()
            if isinstance(inner, Mapping)
        }

    def _whole(self, schema: Schema) -> int:
        low, high = schema.get("minimum"), schema.get("maximum")
        least = int(low) if isinstance(low, int | float) else 0
        most = int(high) if isinstance(high, int | float) else least + 99
        return self._chance.randint(least, max(least, most))


def _type_of(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        kind = kind[0]
    if kind is None:
        return "object" if "properties" in schema else "string"
    return str(kind)
