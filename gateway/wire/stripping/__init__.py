"""How injected fields are taken out of the text of a response.

`json_text` finds members of JSON text and cuts them out, `unasked` knows what each engine sends if
not asked. `fast_strip`, `any_frame` and `exact_event` are the quick ways through the events of a
stream, which have to give the same bytes. The room may import nothing else of `wire`.
"""
