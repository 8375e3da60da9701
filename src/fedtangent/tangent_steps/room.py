"""What a node's work in the tangent space takes in memory, from shapes alone."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

from fedtangent import trees
from fedtangent.tangent_steps import anew, of_task, slices
from fedtangent.tangent_steps.blocks import Other, blocks, parameters
from fedtangent.tangents.capture.derivatives import known_ways
from fedtangent.tangents.capture.layers import Matrix
from fedtangent.tangents.capture.uses import Uses
from fedtangent.tangents.numerics.budget import Budget
from fedtangent.tangents.numerics.kernel_parts import parts
from fedtangent.tangents.plan import least_bytes, planned
from fedtangent.training.task import Task


class Load(NamedTuple):
    """Bytes.

    Attributes:
        inputs, moments, along, losses: Of a row, on its way into each.
        message: Of moments.
        largest: Of the largest block's matrices, both of them.
    """

    inputs: int
    moments: int
    along: int
    losses: int
    message: int
    largest: int


def node_bytes(task: Task, other: Other, directions: int, tries: int) -> Callable[[int, int], int]:
    """(rows, degree) -> about the peak memory of a node's moments, directions and candidates.

    Of its neighbours' answers too, which an engine may compute all at once; one after the other they take less.
    """

    def peak(rows: int, degree: int) -> int:
        load, w = _known(task, other, directions, tries), slices.size(task.w_0)
        k, few = directions * w, max(group.stop - group.start for group in slices.groups(tries, task.w_0)) * w
        moments = slices.held(rows, load.moments)
        answers: int = max(
            slices.held(rows, load.inputs) + 2 * load.largest,
            moments + (1 + (moments < rows * load.moments)) * load.message + 2 * w + load.largest,
            slices.held(rows, load.along) + 3 * k,
            slices.held(rows, load.losses) + k + few,
        )
        alone: int = load.message + 2 * k + 4 * load.largest
        if not degree:
            return max(answers, alone)
        # questions are weights and directions; what was asked stays until the choice
        return max(degree * (answers + w), alone) + 2 * load.message + k

    return peak


def _known(task: Task, other: Other, directions: int, tries: int) -> Load:
    name = f"load {other} {directions} {tries}"
    if name not in task.cache:
        task.cache[name] = _load(task, other, directions, tries)
    found: Load = task.cache[name]
    return found


def _load(task: Task, other: Other, directions: int, tries: int) -> Load:
    example, w = of_task.example(task), task.w_0
    number = trees.number_bytes(w)
    if example is None:
        return _guess(task)
    try:
        found = of_task.uses(task, w, task.example)
        made = blocks(found, other)
        ways = known_ways(of_task.function(task), w, example, example)
    except (RuntimeError, ValueError, TypeError):  # whoever computes with the model says what is wrong
        return _guess(task)
    message, largest = task.size, 0
    for key, block in made.items():
        sides = [sum(w[name].numel() for name in parameters(key))]
        g = 1
        if block.kronecker:
            use = found.by_name[block.uses[0]]
            assert isinstance(use, Matrix)
            g, sides = use.groups, [use.fan_out]
            message += use.fan_in if block.lookup else 0
            sides += [] if block.lookup else [use.fan_in + (use.bias is not None)]
        message += g * sum(side * (side + 1) // 2 for side in sides)
        largest = max(largest, g * sum(side**2 for side in sides))
    whole = [block.uses for block in made.values() if not block.kronecker]
    fixed = [block.uses[0] for block in made.values() if block.fixed]
    return Load(
        slices.of_inputs(found, w, fixed) if fixed else 0,
        slices.of_moments(found, w, whole),
        slices.of_directions(found, w, directions, ways),
        slices.of_losses(found, w, tries),
        number * message,
        number * largest,
    )


def step_bytes(task: Task, kind: Literal["trace", "full"], tries: int) -> Callable[[int, int], int]:
    """(rows, degree) -> about the peak memory of a tangent step: factors of a neighbourhood, kernel, candidates."""

    def peak(rows: int, degree: int) -> int:
        name = f"step {kind} {tries} {rows} {degree}"
        if name not in task.cache:
            task.cache[name] = _step_bytes(task, kind, tries, rows, degree)
        found: int = task.cache[name]
        return found

    return peak


def _step_bytes(task: Task, kind: Literal["trace", "full"], tries: int, rows: int, degree: int) -> int:
    n, w = rows * (degree + 1), task.w_0
    number = trees.number_bytes(w)
    if task.example is None or (found := _uses(task)) is None:
        sides = 3 * n * sum(part.shape[-1] if part.dim() else 1 for part in w.values())
        return number * (6 * n * n + sides + 5 * tries * task.size)
    size, candidates = n * (found.outputs if kind == "full" else 1), tries * slices.size(w)
    scored = max(1, degree) * (slices.held(rows, slices.of_losses(found, w, tries)) + candidates)
    scored += candidates if degree else 0
    if anew.needed(found, w):
        x = number * found.sample
        kernel, filling = number * size**2, 0
        if kernel > anew.KERNEL:
            kernel = 0
        else:
            memory = max(anew.FACTORS, least_bytes(found, w, n, kind))
            filling = 2 * kernel + planned(found, w, torch.empty(n, 0), None, kind, memory).peak_bytes
        pulled = slices.held(n, anew.pulled_bytes(found, w)) + 2 * candidates
        sent = max(1, degree) * slices.held(rows, slices.of_losses(found, w, 1))
        return 2 * n * x + max(filling, kernel + pulled, scored, sent)
    own = parts(found, w)
    loads = Budget(found, own, kind, 1, 1, True, number).loads(found.outputs)
    sides = sum(load.side(load.pieces) for load in loads)
    making = max(max(load.making(load.pieces) for load in loads), found.outputs * max(part.size for part in own))
    dense = slices.together(found)
    if dense and kind == "full":  # never written out: of every layer what makes cheaper products
        kernels = sum(n * min(n, 2 * max(part.size // part.uses[0].call.shapes[0][-1], 1)) for part in own)
    else:
        kernels = 2 * size**2
    held = n * (2 * anew.row_bytes(found, w) + number * (sides + (0 if dense else making)))
    return int(held + number * kernels + max(2 * candidates, scored))


def _uses(task: Task) -> Uses | None:
    try:
        return of_task.uses(task, task.w_0, task.example)
    except (RuntimeError, ValueError, TypeError):  # whoever computes with the model says what is wrong
        return None


def _guess(task: Task) -> Load:
    """Of dense layers, from the shapes of the weights alone, where no pass tells more."""
    shapes = [tuple(w.shape) for w in task.w_0.values()]
    heights = [math.prod(shape[:1]) for shape in shapes]  # of a scalar too
    number = trees.number_bytes(task.w_0)
    sides = [(shape[0], math.prod(shape[1:])) for shape in shapes if len(shape) > 1] or [(1, 1)]
    row = number * 4 * heights[-1] * sum(heights)
    message = task.size + sum(side * (side + 1) // 2 for pair in sides for side in pair)
    return Load(row, row, row, row, number * message, number * max(i**2 + o**2 for o, i in sides))
