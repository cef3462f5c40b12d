"""What a model says of each test sample, noted while its scores are taken: no second pass.

The model's output is looked at by a hook while recipe.metrics runs. What cannot be taken for the
logits of one class among all (the model was called twice, or not at all, or its output has another
shape) leaves no verdicts, and nothing else happens: a score never depends on them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

_AT_ONCE: Final = 1 << 18  # logits


class Verdicts:
    """Of the last evaluation: the class that the model chose for each sample, and how sure it was.

    `predicted` is int64, (samples,), in [0, classes), and `probability` float32, (samples,), the
    softmax of the chosen class; both on the host, equal on every process, or None.
    """

    def __init__(self, classes: int) -> None:
        """`classes` is 0 for regression: then there are no verdicts."""
        self.classes = classes
        self.step = 0
        """The evaluation was made after so many steps; 0 when there was none."""
        self.scores: Mapping[str, float | None] = {}
        """Its averages."""
        self.predicted: Tensor | None = None
        self.probability: Tensor | None = None
        self._rows = torch.zeros(2, 0)  # the class + 1, so that 0 is no verdict; the probability
        self._outputs: list[object] = []
        self._waiting: list[tuple[int, Tensor]] = []

    @contextmanager
    def noting(self, model: nn.Module, samples: int, device: torch.device) -> Iterator[None]:
        """Look at the outputs of `model`, whose blocks `keep` takes one by one."""
        self.predicted = self.probability = None
        self._rows = torch.zeros(2, samples if self.classes else 0, device=device)
        if not self.classes:
            yield
            return
        hook = model.register_forward_hook(self._note)
        try:
            yield
        finally:
            hook.remove()
            self._outputs.clear()
            self._waiting.clear()

    def _note(self, model: nn.Module, inputs: object, output: object) -> None:
        self._outputs.append(output)

    def keep(self, first: int, block: int, real: int) -> None:
        """Take the verdicts of the block of samples that begins with `first`; only the first `real`
        ones of its `block` samples count."""
        match self._outputs:
            case [Tensor() as output] if output.shape == (block, self.classes):
                # Copied: the next block may be written to the same place.
                self._waiting.append((first, output[:real].to(torch.float32, copy=True)))
        self._outputs.clear()
        if len(self._waiting) * block * self.classes > _AT_ONCE:
            self._decide()

    def _decide(self) -> None:
        """Of the blocks that wait: many small ones at once, since an operation costs more than its
        work."""
        if not self._waiting:
            return
        logits = torch.cat([part for _, part in self._waiting])
        chosen = logits.argmax(1)  # as metrics.classification has it
        # The softmax of that class alone, in a quarter of the time that all of it takes.
        sure = (logits - logits.gather(1, chosen[:, None])).exp().sum(1).reciprocal()
        found = torch.stack([chosen + 1.0, sure])
        sizes = [len(part) for _, part in self._waiting]
        for (first, part), verdicts in zip(
            self._waiting, torch.split(found, sizes, 1), strict=True
        ):
            self._rows[:, first : first + len(part)] = verdicts
        self._waiting.clear()

    def gather(self, total: Callable[[Tensor], Tensor] | None) -> None:
        """Bring the verdicts of all processes together. A collective where there are classes;
        `total` is the sum of a tensor over all processes."""
        if not self.classes:
            return
        self._decide()
        rows = (self._rows if total is None else total(self._rows)).cpu()
        if bool((rows[0] > 0).all()):
            self.predicted, self.probability = rows[0].long() - 1, rows[1]
