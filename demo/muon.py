"""Muon: gradient descent along the momentum's orthogonal part, in float32.

torch's own Muon works in bfloat16, which is slow on many CPUs. Method: Keller Jordan, "Muon: An
optimizer for hidden layers in neural networks", 2024.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor
from torch.nn import Parameter

# Quintic whose repeated use pulls every singular value into about 0.7 to 1.2.
NEWTON_SCHULZ: Final = (3.4445, -4.775, 2.0315)
NEWTON_SCHULZ_STEPS: Final = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring all singular values of a batch of matrices, shape (n, rows, columns), close to 1."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if is_tall else matrices
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


class Muon:
    """Optimizer for weight matrices; equal shapes are stepped together as one batch."""

    def __init__(
        self,
        matrices: Iterable[Parameter],
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.05,
    ) -> None:
        """Take the matrices to train; nothing moves before the first step."""
        self.momentum = momentum
        self.weight_decay = weight_decay
        self._groups: dict[torch.Size, list[Parameter]] = defaultdict(list)
        for matrix in matrices:
            self._groups[matrix.shape].append(matrix)
        self._momenta = {
            shape: torch.zeros(len(group), *shape) for shape, group in self._groups.items()
        }

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move every matrix against its gradient, which must be set, and clear the gradients."""
        for (rows, columns), group in self._groups.items():
            momentum = self._momenta[torch.Size((rows, columns))]
            gradients = torch.stack([_gradient(matrix) for matrix in group])
            momentum.lerp_(gradients, 1 - self.momentum)
            directions = orthogonalise(torch.lerp(gradients, momentum, self.momentum))
            step_size = learning_rate * max(1.0, rows / columns) ** 0.5
            for matrix, direction in zip(group, directions, strict=True):
                matrix.mul_(1 - learning_rate * self.weight_decay)
                matrix.add_(direction, alpha=-step_size)
                matrix.grad = None


def _gradient(matrix: Parameter) -> Tensor:
    if matrix.grad is None:
        raise ValueError("Muon stepped before the backward pass; call loss.backward() first")
    return matrix.grad
