"""The global maps as their papers write them: temperature, ensemble temperature, vector, matrix, constrained matrix
scaling and Dirichlet calibration.

All start at the identity: T = 1, W = I, b = 0, s = 1. Ensemble temperature scaling cannot, since a softmax reaches no
zero: its weights start at (0.998, 0.001, 0.001), as in the authors' library. Matrices, constrained ones after
reconstruction, carry ODIR (K26 Eq. 15); temperatures and mixture weights carry no penalty. Vector scaling is not in
K26's tables; its penalty is the one the exact method calls odir.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from segcal.engine.accumulate import Accumulator
from segcal.fitting.parameterisation import FLOOR, Parameterisation, Stage, parameter, softplus_inverse
from segcal.fitting.penalties import Penalty, odir, towards_temperature
from segcal.fitting.solvers.newton import strong_convexity_gap
from segcal.methods.affine.map import AffineMap
from segcal.methods.affine.sums import AffineNLL
from segcal.methods.maps import Map
from segcal.methods.mixture import MixtureMap, MixtureNLL
from segcal.methods.temperature import ScaleMap, ScaleNLL

BETA = (1e-4, 1e4)
"""Where the exact temperature is sought; the bound on a gap holds there."""

_ONLY = "all"

Array = NDArray[np.float64]


class TemperatureStage(Stage):
    """T = softplus(raw) + 1e-6; one number, beta = 1/T, for the accumulator."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = parameter(softplus_inverse(1 - FLOOR))

    @property
    def beta(self) -> Tensor:
        return 1 / (softplus(self.raw) + FLOOR)

    def pieces(self) -> Mapping[Hashable, Tensor]:
        return {_ONLY: self.beta.reshape(1)}

    def accumulator(self, piece: Hashable, numbers: Sequence[float], order: int, logits: bool) -> Accumulator:
        del piece, order, logits
        return ScaleNLL(numbers[0])

    def gap(
        self, numbers: Mapping[Hashable, Tensor], gradient: Mapping[Hashable, Tensor], lambda_: float, mu: float
    ) -> tuple[float, str]:
        del lambda_, mu
        beta, slope = numbers[_ONLY].item(), gradient[_ONLY].item()
        return (
            abs(slope) * max(beta - BETA[0] if slope > 0 else BETA[1] - beta, 0.0),
            f"convexity on {BETA[0]:g} <= 1/T <= {BETA[1]:g}",
        )


class WeightsStage(Stage):
    """Mixture weights as a softmax of three raw numbers, at the temperature of the stage before."""

    START = (0.998, 0.001, 0.001)

    def __init__(self, first: TemperatureStage) -> None:
        super().__init__()
        self.raw = parameter(torch.tensor(self.START, dtype=torch.float64).log())
        self._first = (first,)  # in a tuple: its parameter belongs to the stage before

    @property
    def weights(self) -> Tensor:
        return torch.softmax(self.raw, 0)

    def pieces(self) -> Mapping[Hashable, Tensor]:
        return {_ONLY: self.weights}

    def accumulator(self, piece: Hashable, numbers: Sequence[float], order: int, logits: bool) -> Accumulator:
        del piece, order, logits
        a, b, c = numbers
        return MixtureNLL(self._first[0].beta.item(), (a, b, c))

    def gap(
        self, numbers: Mapping[Hashable, Tensor], gradient: Mapping[Hashable, Tensor], lambda_: float, mu: float
    ) -> tuple[float, str]:
        del lambda_, mu
        slope = gradient[_ONLY]
        return max(0.0, (slope @ numbers[_ONLY] - slope.min()).item()), "Frank-Wolfe, at this temperature"


class AffineStage(Stage):
    """What all matrices share: [W | b] for the accumulator, ODIR on it."""

    penalised: ClassVar[bool] = True

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    @abstractmethod
    def matrix(self) -> Tensor:
        """[W | b], (C, C + 1)."""

    def odir(self, lambda_: float, mu: float) -> Penalty:
        """The penalty on [W | b]."""
        return odir(self.classes, lambda_, mu)

    def pieces(self) -> Mapping[Hashable, Tensor]:
        return {_ONLY: self.forward()}

    def accumulator(self, piece: Hashable, numbers: Sequence[float], order: int, logits: bool) -> Accumulator:
        del piece
        return AffineNLL(self.classes, tuple(numbers), order, logits)

    def penalty(self, lambda_: float, mu: float) -> Tensor:
        penalty = self.odir(lambda_, mu)
        weight, centre = torch.from_numpy(penalty.weight), torch.from_numpy(penalty.centre)
        return (weight * (self.forward() - centre) ** 2).sum()

    def gap(
        self, numbers: Mapping[Hashable, Tensor], gradient: Mapping[Hashable, Tensor], lambda_: float, mu: float
    ) -> tuple[float, str]:
        penalty = self.odir(lambda_, mu)
        theta = numbers[_ONLY].numpy()
        total = gradient[_ONLY].numpy() + penalty.gradient(theta)
        raw, jacobian = self._linear()
        return strong_convexity_gap(jacobian.T * penalty.curvature @ jacobian)(raw, np.asarray(jacobian.T @ total))

    def forward(self) -> Tensor:
        """[W | b], flat."""
        return self.matrix().reshape(-1)

    def _linear(self) -> tuple[Array, Array]:
        """Present parameters (d,) and the Jacobian of [W | b] in them, which is constant: every matrix here is linear
        in its parameters.
        """
        parameters = {name: p.detach() for name, p in self.named_parameters()}
        jacobian = torch.func.jacrev(lambda named: torch.func.functional_call(self, named, ()))(parameters)
        columns = torch.cat([jacobian[name].reshape(self.classes * (self.classes + 1), -1) for name in parameters], 1)
        return torch.cat([p.reshape(-1) for p in parameters.values()]).numpy(), columns.detach().numpy()


class VectorStage(AffineStage):
    """A factor and a bias a class."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.factor, self.bias = parameter(torch.ones(classes)), parameter(torch.zeros(classes))

    def matrix(self) -> Tensor:
        return torch.cat([torch.diag(self.factor), self.bias[:, None]], 1)

    def odir(self, lambda_: float, mu: float) -> Penalty:
        """Mean (a - 1)^2 and mean b^2: a diagonal has no off-diagonal; the zeros beside it cost nothing."""
        return towards_temperature(self.classes, lambda_ * self.classes, mu, 1.0)


class MatrixStage(AffineStage):
    """W and b, all free."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.weight, self.bias = parameter(torch.eye(classes)), parameter(torch.zeros(classes))

    def matrix(self) -> Tensor:
        return torch.cat([self.weight, self.bias[:, None]], 1)


class ConstrainedStage(AffineStage):
    """W = [W_free, s 1 - W_free 1], so that all row sums are s."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.free = parameter(torch.eye(classes)[:, :-1])
        self.row_sum = parameter(1.0)
        self.bias = parameter(torch.zeros(classes))

    def matrix(self) -> Tensor:
        return torch.cat([self.free, (self.row_sum - self.free.sum(1))[:, None], self.bias[:, None]], 1)


class Temperature(Parameterisation):
    """1 number."""

    name: ClassVar[str] = "ts"

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.scale = TemperatureStage()

    @property
    def stages(self) -> Sequence[Stage]:
        return (self.scale,)

    def forward(self, features: Tensor) -> Tensor:
        return torch.log_softmax(self.scale.beta * features, 0)

    def map(self, logits: bool) -> Map:
        del logits
        return ScaleMap(self.scale.beta.item())


class EnsembleTemperature(Parameterisation):
    """4 numbers: the temperature first, then the weights."""

    name: ClassVar[str] = "ets"

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.scale = TemperatureStage()
        self.mixture = WeightsStage(self.scale)

    @property
    def stages(self) -> Sequence[Stage]:
        return self.scale, self.mixture

    def forward(self, features: Tensor) -> Tensor:
        components = torch.stack(
            [
                torch.softmax(self.scale.beta * features, 0),
                torch.softmax(features, 0),
                torch.full_like(features, 1 / self.classes),
            ]
        )
        return torch.einsum("k,kcn->cn", self.mixture.weights, components).log()

    def map(self, logits: bool) -> Map:
        del logits
        return MixtureMap(self.scale.beta.item(), self.mixture.weights.detach())


class Affine(Parameterisation):
    """A matrix and a bias."""

    stage_type: ClassVar[type[AffineStage]]

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.affine = self.stage_type(classes)

    @property
    def stages(self) -> Sequence[Stage]:
        return (self.affine,)

    def forward(self, features: Tensor) -> Tensor:
        matrix = self.affine.matrix()
        return torch.log_softmax(matrix[:, :-1] @ features + matrix[:, -1:], 0)

    def map(self, logits: bool) -> Map:
        matrix = self.affine.matrix().detach()
        return AffineMap(matrix[:, :-1], matrix[:, -1], logits)


class Vector(Affine):
    """2 C numbers."""

    name: ClassVar[str] = "vs"
    stage_type: ClassVar[type[AffineStage]] = VectorStage
    fitted_on_logits: ClassVar[bool] = True


class Matrix(Affine):
    """C (C + 1) numbers, on raw logits where they are known."""

    name: ClassVar[str] = "ms"
    stage_type: ClassVar[type[AffineStage]] = MatrixStage
    fitted_on_logits: ClassVar[bool] = True


class ConstrainedMatrix(Affine):
    """C^2 + 1 numbers; logits and log-probabilities give the same map."""

    name: ClassVar[str] = "ms-c"
    stage_type: ClassVar[type[AffineStage]] = ConstrainedStage


class Dirichlet(Affine):
    """C (C + 1) numbers, on log-probabilities."""

    name: ClassVar[str] = "dc"
    stage_type: ClassVar[type[AffineStage]] = MatrixStage
    canonical: ClassVar[bool] = True
