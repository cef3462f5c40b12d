"""What `train` of a script with a loop of its own is given: see `own_loop`."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from launcher import describe, draws, generators, imported, resume, rng, sources, storage
from launcher.connect import connect
from launcher.data import Batch, Data, feed
from launcher.errors import Preempted, RecipeError, listed
from launcher.guard import not_finite
from launcher.kept import Kept, own_memory, refuse
from launcher.layout import size
from launcher.meter import Meter
from launcher.plan import Plan
from launcher.record import Record
from launcher.request import Request
from launcher.run import farewell
from launcher.saver import Saver
from launcher.screen import Screen
from launcher.settings import Hparams, Origins
from launcher.slots import group_values
from launcher.state import State
from launcher.stop import Asked, Stop
from launcher.strategy import World
from launcher.together import Together
from launcher.train import ask_by_clock, due, log_interval

H = TypeVar("H", bound=Hparams)
_BETWEEN_LINES: Final = 5.0
_PLACE: Final = frozenset({"step", "epoch", "seconds"})


class OwnLoop(Generic[H]):
    """One attempt at a script's run: what `train` is given."""

    model: nn.ModuleDict
    optimizer: Together
    groups: Sequence[Mapping[str, Any]]
    kept: Kept
    data: Data
    plan: Plan
    monitor = average = layout = None  # nothing is evaluated, and models are the script's
    began_with = ""

    def __init__(
        self, request: Request, hparams: H, origins: Origins, source: bytes, held: ExitStack
    ) -> None:
        """Takes a device and seeds all generators; the run folder is taken by `steps`."""
        self.hparams = hparams
        self.settings = request.settings
        self.screen = Screen(shown=True)
        self.modules = imported.by_script(request.path)
        sha256 = imported.identity(source, self.modules)
        self.identity = resume.identify(request, sha256, hparams)
        self.world: World = connect(request.launch, hparams, request.settings)
        held.callback(self.world.close)
        self.state = State()
        self._request, self._origins, self._source, self._held = request, origins, source, held
        self._record: Record | None = None
        self._saver: Saver | None = None
        self._noted: Mapping[str, Tensor | float] = {}
        sources.data_dir.set(Path(request.settings.data_dir))
        sources.mirror.set(request.settings.mirror)
        first = rng.torch_seed(hparams.seed)
        torch.manual_seed(first)
        generators.seed(first)

    @property
    def device(self) -> torch.device:
        """Where models belong: move them before their optimizers are made."""
        return self.world.device

    @property
    def folder(self) -> Path:
        """The run's folder, for what else the script writes: `storage.replace` does it whole."""
        return self._request.folder

    @property
    def progress(self) -> float:
        """How far the run is in the middle of this step, in (0, 1): for a schedule."""
        return self.plan.progress(self.state.step)

    def steps(
        self, data: Data, *, models: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
    ) -> Iterator[tuple[int, Batch]]:
        """Every step that is left, counted from 0, with its batch of `batch_size` samples.

        The models and optimizers first get what the newest checkpoint has of them. A step is done
        when the loop asks for the next one: a loop that is left before leaves nothing of that step.
        Each step begins with torch's generator in a state of its own; learning rates are not in a
        checkpoint, and are a function of `progress`. Raises CheckpointError and LockedError for a
        run folder that cannot be continued, NonFiniteError, StorageError, and Preempted when the
        run is asked to stop.
        """
        saver, stop = self._begin(data, models, optimizers)
        meter = self._meter
        every = {"log": log_interval(self.plan, self.settings.log_every),
                 "save": self.plan.steps(self.settings.checkpoint_every)}  # fmt: skip
        batches = meter.waiting(feed(
            self.data, self.plan, self.device, start=self.state.step,
            before=lambda ticket: self._seed(ticket.step, rng.AUGMENT),
        ))  # fmt: skip
        shown = saved = time.monotonic()
        begun, others = self.state.step, generators.states()
        for step in range(self.state.step, self.plan.total_steps):
            self.world.watch.begin_step(step)
            _, batch = next(batches)
            self._seed(step)
            self._noted = {}
            yield step, batch
            self.state.step = step + 1
            if step == begun:
                saver.check(self.state.step)
                if remark := generators.remark(others, generators.states()):
                    self.screen.line(remark)
            meter.stepped(self.plan.batch_size)
            self.screen.step(self.state.step)
            if due(self.state.step, every["log"], self.plan.total_steps):
                line = self._log()
                if self.state.step == self.plan.total_steps or _over(shown, _BETWEEN_LINES):
                    shown = time.monotonic()
                    self.screen.noted(line, self.plan.total_steps)
            aside = time.monotonic()
            asked = stop.agreed(self.state.step)
            if asked or due(self.state.step, every["save"], self.plan.total_steps):
                saver.save(self.state)
                saved = time.monotonic()
            if asked is Asked.STOP and self.state.step < self.plan.total_steps:
                saver.finish()
                raise Preempted(
                    f"{stop.why}: stopped after step {self.state.step} of {self.plan.total_steps}, "
                    f"and a checkpoint is written. The same command continues."
                )
            ask_by_clock(stop, self.settings, meter, saved)
            meter.set_aside(time.monotonic() - aside)
            meter.first_step_done()
        saver.finish()

    def note(self, values: Mapping[str, Tensor | float]) -> None:
        """Numbers of this step, as `train/NAME`. They are read, and the host waits for the device,
        only where a line of metrics is due: in every `log_every`-th step and the last. Raises
        RecipeError for a name that the line has already."""
        if not _PLACE.isdisjoint(values):
            names = listed(sorted(_PLACE & values.keys()))
            raise RecipeError(f"loop.note: every line of metrics has {names} of its own. Give "
                              f"another name, as train/NAME.")  # fmt: skip
        self._noted = values

    def __enter__(self) -> "OwnLoop[H]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the result. Raises Preempted for a loop that was left early, RecipeError for a
        script that has none."""
        if self._saver is not None:  # what is under way gets durable, whatever ended the loop
            self._saver.__exit__(None, None, None)
        if kind is not None:
            return
        if self._record is None:
            raise RecipeError("the script's train function returned before it asked for a step.")
        self.screen.stop()
        if self.state.step < self.plan.total_steps:
            raise Preempted(
                f"the loop was left in step {self.state.step + 1} of {self.plan.total_steps}, and "
                f"nothing of that step is saved. The same command continues from the last "
                f"checkpoint."
            )
        result = {"scores": self.state.scores, "best": None}
        self._record.finished(self.state.step, result, self._meter.seconds())
        describe.closing(self.screen, self._request)

    def _begin(
        self, data: Data, models: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
    ) -> tuple[Saver, Stop]:
        """Take the run folder, restore what is there, and say what is about to happen."""
        if self._record is not None:
            raise RecipeError("steps() can be asked for once in a run.")
        self.data = data
        self.plan = Plan.of(self.hparams, len(data.train.source))
        self.model = nn.ModuleDict(models)
        refuse(self.model)
        own_memory(self.model)
        self.optimizer = Together(self.model, optimizers)
        self.kept = Kept(self.model, self.optimizer)
        self.groups = group_values(self.optimizer)
        record = self._record = Record(self._request.folder)
        self._held.callback(record.close)
        resume.earlier(self._request, self.identity)  # another command may have had the folder
        resume.refuse_other_data(self._request, self)
        found = resume.newest(self._request, record, self.screen)
        weights = sum(value.nbytes for value in self.model.state_dict().values())
        storage.probe(self._request.folder, weights)
        if found is not None:
            self.state = resume.restored(self, found, found.step)
        self.world.watch.on_end = lambda error, code: record.failed(error, code, self.state.step)
        about = describe.run(self._request, self, self._origins, self.identity, self.state.step)
        about["launched_by"] = "own loop"
        state, modules = self.state, self.modules
        seconds = record.begin(self._source, about, state.records, state.step, modules)
        self._banner(about)
        self.screen.start(
            self.plan.total_steps, self.state.step, self.plan.steps_per_epoch,
            describe.memory(self.device),
        )  # fmt: skip
        stop = Stop(1, lambda: farewell(self._request), self.settings.timeout)
        self._held.enter_context(stop)
        self._saver = Saver(self, record, self.screen)
        self._meter = Meter(self.device, seconds)
        return self._saver, stop

    def _seed(self, step: int, *purpose: int) -> None:
        draws.begin(self.hparams.seed, step)
        self.world.seed([rng.torch_seed(self.hparams.seed, step, 0, *purpose)])

    def _log(self) -> Mapping[str, float]:
        """A line of metrics; what a person needs of it. Raises NonFiniteError for a number of this
        step that is none."""
        values = {
            key: value.item() if isinstance(value, Tensor) else float(value)
            for key, value in self._noted.items()
        }
        if not all(math.isfinite(value) for value in values.values()):
            raise not_finite(self.plan, self.state.step - 1)
        self.state.scores = dict(values)
        self.state.records += 1
        place = {"step": self.state.step, "epoch": self.state.step / self.plan.steps_per_epoch}
        line = {**place, "seconds": self._meter.seconds(), **self._meter.pace(), **values}
        assert self._record is not None, "steps has begun"
        self._record.metrics(line)
        self._meter.restart()
        return {**place, **values}

    def _banner(self, about: Mapping[str, Any]) -> None:
        plan, step = self.plan, self.state.step
        start = f"continues at step {step} of {plan.total_steps}" if step else "fresh"
        sizes = (f"{name} {size(model):,}" for name, model in self.model.items())
        self.screen.facts(
            f"{self._request.name}: {start}",
            {
                "parameters": ", ".join(sizes),
                "data": f"{plan.samples:,} samples of {' x '.join(map(str, self.data.shape))}",
                "devices": describe.devices(self),
                "plan": describe.planned(plan),
                "folder": self._request.label,
            },
        )
        for sentence in describe.remarks(self, self._request):
            self.screen.line(sentence)
        describe.inexact(self.screen, about)


def _over(since: float, seconds: float) -> bool:
    return time.monotonic() - since >= seconds
