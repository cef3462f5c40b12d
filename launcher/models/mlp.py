"""A multilayer perceptron of any widths."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn

Init = Literal["default", "normal", "xavier", "kaiming"]

# What is done to a weight matrix; biases become zero, except under "default".
_INITS: dict[Init, Callable[[Tensor], Tensor]] = {
    "normal": partial(nn.init.normal_, std=0.01),
    "xavier": nn.init.xavier_uniform_,
    "kaiming": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
}


class MLP(nn.Module):
    """Linear layers with ReLU between them, and dropout after each ReLU if wanted.

    `init`: `default` (torch's), `normal` (standard deviation 0.01), `xavier` (Glorot, Bengio,
    AISTATS 2010, equation 16), `kaiming` (He et al., ICCV 2015, equation 10). Takes inputs of any
    shape (N, ...) that flatten to `inputs` numbers; gives outputs of shape (N, outputs). No widths:
    one linear layer, which is softmax regression.
    """

    def __init__(
        self, inputs: int, outputs: int, widths: Sequence[int] = (256,), init: Init = "default",
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for width in widths:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout else []
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, outputs))
        if init != "default":
            self.layers.apply(partial(_initialise, init))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


def _initialise(init: Init, module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        _INITS[init](module.weight)
        nn.init.zeros_(module.bias)
