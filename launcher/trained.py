"""What a checkpoint and run.json say of a run, whoever owns its loop: `train`, or a script."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from launcher.data import Data
from launcher.ema import Average
from launcher.kept import Kept
from launcher.layout import Layout
from launcher.monitor import Monitor
from launcher.plan import Plan
from launcher.settings import Hparams, RunSettings
from launcher.strategy import World
from launcher.together import Together


class Trained(Protocol):
    """A run as far as it is saved and described: `build.Parts`, or `own_loop.OwnLoop`."""

    @property
    def hparams(self) -> Hparams: ...
    @property
    def settings(self) -> RunSettings: ...
    @property
    def modules(self) -> Mapping[str, bytes]:
        """What the recipe or script imports of its own folder."""

    @property
    def world(self) -> World: ...
    @property
    def data(self) -> Data: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def model(self) -> nn.Module: ...
    @property
    def optimizer(self) -> Optimizer | Together: ...
    @property
    def monitor(self) -> Monitor | None:
        """Which metric decides what is best, where one does."""

    @property
    def began_with(self) -> str:
        """The hash of the weights that the model was made with; empty for random ones."""

    @property
    def layout(self) -> Layout | None:
        """Of the filters of convolutions, where it is ours to say."""

    @property
    def average(self) -> Average | None:
        """Of the weights, where evaluations use it."""

    @property
    def kept(self) -> Kept:
        """Looks for what checkpoints would lose."""

    @property
    def groups(self) -> Sequence[Mapping[str, Any]]:
        """What each parameter group of the optimizer held at first, but for the learning rate."""
