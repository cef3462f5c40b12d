"""The one loop. Whoever wants to know what happens in a run reads `train` from top to bottom."""

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from launcher import rng, ways
from launcher.build import Parts
from launcher.data import Batch, Data, feed
from launcher.ema import in_use
from launcher.errors import Preempted, counted
from launcher.evaluate import averages, scores
from launcher.guard import Guard, finite_factor
from launcher.meter import Meter
from launcher.passes import Passes
from launcher.plan import Plan, Seeds, Ticket
from launcher.record import Record
from launcher.saver import Saver
from launcher.screen import Screen
from launcher.settings import RunSettings
from launcher.state import State
from launcher.stop import Asked, Stop
from launcher.update import Update
from launcher.verdicts import Verdicts

if TYPE_CHECKING:  # it is imported with --profile only
    from launcher.profiling import Profile


def due(step: int, every: int, total_steps: int) -> bool:
    """Whether what happens every so many steps, and at the end, happens after `step` steps."""
    return step % every == 0 or step == total_steps


def log_interval(plan: Plan, log_every: int) -> int:
    """Steps between two lines of metrics: at least five lines in an epoch that has five steps."""
    return min(log_every, max(1, plan.steps_per_epoch // 5))


def stopped_early(parts: Parts, state: State) -> str:
    """Why a run ends before its plan does: its score has not improved for `patience` evaluations;
    an empty text otherwise. The same on every process, and after a restart."""
    patience, total = parts.hparams.patience, parts.plan.total_steps
    if patience is None or state.stale < patience or state.step == total:
        return ""
    best = f"step {state.best['step']}" if state.best else "none"
    return (
        f"stopped early, after step {state.step} of {total}: "
        f"{counted(state.stale, 'evaluation')} in a row gave no better {parts.monitor.name} "
        f"(best: {best}; patience={patience})"
    )


def train(
    parts: Parts, state: State, saver: Saver, screen: Screen, stop: Stop, seconds: float = 0.0,
    verdicts: Verdicts | None = None, profile: "Profile | None" = None,
) -> State:  # fmt: skip
    """Train from `state.step` to the end of the plan.

    Model and optimizer already hold what was restored; `seconds` is the time of earlier attempts;
    `verdicts` gets those of each evaluation, `profile` looks at some of the steps.
    Raises NonFiniteError for a loss or gradient that is no number, StorageError for checkpoints
    that cannot be written, Preempted when all have stopped.
    """
    hparams, world, plan, recipe = parts.hparams, parts.world, parts.plan, parts.recipe
    settings, optimizer = parts.settings, parts.optimizer
    every = {"log": log_interval(plan, settings.log_every),
             "evaluate": plan.steps(settings.evaluate_every),
             "save": plan.steps(settings.checkpoint_every)}  # fmt: skip
    parameters = list(parts.model.parameters())
    wrapped, stepper = world.prepare(parts.model, optimizer, sync_batchnorm=hparams.sync_batchnorm)
    world.restore_scaler(state.scaler)
    passes = Passes(parts, wrapped)
    passes.first = ways.to_try(parts, passes, screen.line)
    guard = Guard(world, plan, optimizer, parameters, hparams.grad_clip)
    meter = Meter(world.device, seconds, world.process, world.processes, world.total)
    meter.restore(state.loss_sums, state.loss_count)
    update = Update(parts, passes, guard, stepper, meter, screen.line)
    data = parts.data if profile is None else profile.data(parts.data)
    micro_batches = meter.waiting(_fed(parts, data, state.step))
    saved, begun, last = time.monotonic(), state.step, plan.total_steps
    in_python = ways.kept_in_python(parts)
    if profile is not None:
        micro_batches = profile.watch(micro_batches, update, last - state.step)

    for step in range(state.step, last):
        if stopped_early(parts, state):
            break
        world.watch.begin_step(step)
        if profile is not None:
            profile.begin_step()
        factor = finite_factor(recipe.schedule(hparams, plan.progress(step)), step)
        set_rates(parts, factor)
        logging = due(step + 1, every["log"], last)
        norm = update(step, micro_batches, norm=logging)
        if step == begun:
            saver.check(step + 1)
            for said in ways.changed_in_python(in_python, ways.kept_in_python(parts)):
                screen.line(said)
        if parts.average is not None:
            parts.average.update(step)
        state.step = step + 1
        meter.stepped(plan.batch_size)
        screen.step(state.step)

        if logging and norm is not None:
            mean = meter.loss()  # the host waits for the device here, and only here
            guard.on_log(state.step, mean)
            line = {"train/loss": mean, "train/lr": parts.base_lrs[0] * factor,
                    "train/grad_norm": norm.item(), **meter.pace()}  # fmt: skip
            _note(saver.record, screen, state, parts, meter, line)
            meter.restart()
        aside = time.monotonic()
        improved = False
        asked = stop.agreed(state.step)
        saving = due(state.step, every["save"], last) or bool(asked)
        if due(state.step, every["evaluate"], last):
            guard.before_evaluation(state.step, parameters)
            state.scores = evaluate(parts, verdicts, state.step)
            improved = state.note_best(parts.monitor)
            saving |= bool(stopped_early(parts, state))
            _note(saver.record, screen, state, parts, meter, state.scores, best=improved)
        if improved or saving:
            guard.before_save()
            state.loss_sums, state.loss_count = meter.losses()
            saver.save(state)  # last, since it makes the lines above durable
            saved = time.monotonic()
        if asked is Asked.STOP and state.step < last:
            saver.finish()
            raise Preempted(_stopped(stop, state, plan))
        if world.is_main:
            ask_by_clock(stop, settings, meter, saved)
        meter.set_aside(time.monotonic() - aside)
        meter.first_step_done()
    stop.drain()
    saver.finish()
    return state


def _fed(parts: Parts, data: Data, start: int) -> Iterator[tuple[Ticket, Batch]]:
    """This process's micro-batches, from step `start` to the end of the plan."""
    world, augment = parts.world, Seeds(parts.plan, rng.AUGMENT)
    return feed(
        data, parts.plan, world.device, start=start, process=world.process,
        before=lambda ticket: world.seed(augment(ticket)), gather=parts.loaders.train,
    )  # fmt: skip


def set_rates(parts: Parts, factor: float) -> None:
    """Every group's learning rate: the recipe's, times the schedule's factor."""
    for group, lr in zip(parts.optimizer.param_groups, parts.base_lrs, strict=True):
        if isinstance(group["lr"], Tensor):  # where a recorded update reads it
            group["lr"].fill_(lr * factor)
        else:
            group["lr"] = lr * factor


def evaluate(
    parts: Parts, verdicts: Verdicts | None = None, step: int = 0
) -> dict[str, float | None]:
    """The exact scores on the test split, equal on every process; noted in `verdicts`, as those
    after `step` steps. With `ema` they are those of the averaged weights, and those of the model as
    it is are `raw/<metric>`."""
    with in_use(parts.model, parts.average):
        line = averages(_scored(parts, verdicts), parts.data)
    if parts.average is not None:
        own = averages(_scored(parts, None), parts.data)
        line |= {f"raw/{name[5:]}": own[name] for name in own if name.count("/") == 1}
    if verdicts is not None:
        verdicts.scores, verdicts.step = line, step
    return line


def _scored(parts: Parts, verdicts: Verdicts | None) -> dict[str, Tensor]:
    """Every metric of every test sample, of the model as it is."""
    world = parts.world

    def before(seeds: list[int]) -> None:
        world.watch.pulse()
        world.seed(seeds)

    with world.inference():
        return scores(
            parts.model, parts.recipe.metrics, parts.data, world.device, seed=parts.hparams.seed,
            process=world.process, processes=world.processes, total=world.total,
            before=before, gather=parts.loaders.test, verdicts=verdicts,
        )  # fmt: skip


def _note(
    record: Record | None, screen: Screen, state: State, parts: Parts, meter: Meter,
    values: Mapping[str, float | None], *, best: bool = False,
) -> None:  # fmt: skip
    """One record: to metrics.jsonl first, then to the screen."""
    epoch = state.step / parts.plan.steps_per_epoch
    line = {"step": state.step, "epoch": epoch, "seconds": meter.seconds(), **values}
    state.records += 1
    if record is not None:
        record.metrics(line)
    screen.metrics(line, parts.plan.total_steps, best=best)


def ask_by_clock(stop: Stop, settings: RunSettings, meter: Meter, saved: float) -> None:
    """Ask for what is due by time: the main process's clock counts. `saved` is when the last
    checkpoint was."""
    if settings.max_minutes is not None and meter.here() > 60 * settings.max_minutes:
        stop.ask(Asked.STOP, f"max_minutes={settings.max_minutes:g} are over")
    elif time.monotonic() - saved > 60 * settings.checkpoint_minutes:
        stop.ask(Asked.SAVE, "checkpoint_minutes")


def _stopped(stop: Stop, state: State, plan: Plan) -> str:
    return (
        f"{stop.why}: stopped after step {state.step} of {plan.total_steps}, and a checkpoint is "
        f"written. The same command continues."
    )
