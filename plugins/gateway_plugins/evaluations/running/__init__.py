"""Carries evaluations from their submission to their scores.

`conductor.py` looks at the rows and begins `carrier.py` for each evaluation that has not ended,
which does the next step that its row asks for. So a step that was cut off is done again, whatever
ended the gateway. The room imports `children`, `rows` and `options`.
"""
