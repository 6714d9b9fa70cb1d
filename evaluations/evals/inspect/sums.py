"""A task of inspect, as its users write them."""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def sums() -> Task:
    """Sums of two numbers."""
    samples = [
        Sample(input=f"{a} + {7 * a % 31} = ? Answer with the number.", target=str(a + 7 * a % 31))
        for a in range(50)
    ]
    return Task(dataset=samples, solver=generate(), scorer=includes())
