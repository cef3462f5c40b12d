"""One run at Weights & Biases, as a tracker that a follower feeds.

The id is kept in the run folder, so that an attempt which continues a run continues it there too.
What W&B has is read back, from its server or from the files of its offline parts. When that is more
than the checkpoint that this attempt begins with (an older one was taken), the rows that follow
would contradict it: they go to a new W&B run, from the first step on.
"""

import base64
import json
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from launcher import storage
from launcher.documents import read_json
from launcher.errors import StorageError
from launcher.order import Order
from launcher.wandb_file import last_step

INIT_TIMEOUT: Final = 10.0
"""Seconds for a server's first answer."""
ROOM: Final = 1 << 20
"""Bytes that must be free where the W&B client writes: it says nothing when a disk is full."""
MOST_CLASSES: Final = 100
"""Of a confusion matrix as a chart: W&B draws at most 10,000 rows of a table."""


class WandbRun:
    """A W&B run from its beginning, or from where an earlier attempt ended."""

    def __init__(self, order: Order) -> None:
        """Raises StorageError when there is no place for W&B's files."""
        self._order = order
        self._folder = Path(order.folder)
        self._base = Path(os.environ.get("WANDB_DIR") or order.folder)
        storage.make_folder(self._base / "wandb")  # or the client would take a temporary folder
        storage.probe(self._base / "wandb", ROOM)
        # Pictures and checkpoints wait there for `wandb sync`, and not in the user's home.
        os.environ.setdefault("WANDB_DATA_DIR", str(self._base.resolve() / "wandb" / "data"))
        self._warning = ""
        self.mode = order.mode
        self.id = self._own_id()
        self.last = last_step(self._base / "wandb", self.id)
        if self.last > order.from_step:
            self.id, self.last = self._new_id(), -1
        self._run = self._begin()
        if self._run.step - 1 > order.from_step:  # the server has more than our files
            self._run.finish()
            self.id = self._new_id()
            self._run = self._begin()
        if self.mode == "online":
            self.last = self._run.step - 1
            self._supersede()
        self._describe()

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """All numbers of a step. Raises StorageError when W&B's disk is full."""
        if storage.free(self._base) < ROOM:
            raise StorageError(f"there is no room left in {self._base}")
        self._run.log({**values, "global_step": step}, step=step)

    def outcome(self, document: Mapping[str, Any]) -> None:
        """The confusion matrix, and pictures with what the model says of them, at the last step."""
        import wandb

        classes = document["classes"]
        found: dict[str, Any] = {}
        if document["confusion"] and len(classes) <= MOST_CLASSES:
            found["test/confusion"] = _confusion(classes, document["confusion"])
        with tempfile.TemporaryDirectory() as place:
            for key in ("mistakes", "samples"):
                rows = [
                    [case["index"], wandb.Image(str(_picture(Path(place), key, case))),
                     classes[case["label"]], classes[case["predicted"]],
                     case["probability"]]
                    for case in document[key]
                ]  # fmt: skip
                columns: list[str | int] = ["index", "picture", "label", "predicted", "probability"]
                found[f"test/{key}"] = wandb.Table(columns=columns, data=rows)
            self._run.log(found, step=self.last)

    def finish(self, *, finished: bool) -> str | None:
        """Bring everything to its place; the line that sends what did not get there."""
        import wandb

        if finished:
            self._best()
        where = Path(self._run.settings.sync_dir)
        sync = f"wandb sync {os.path.relpath(where)}"
        timely = True
        try:
            self._run.finish(exit_code=0 if finished else 1)
        except TimeoutError:
            timely = False
        if timely:
            wandb.teardown()  # its service writes the rest of the file as it ends
        if timely and (there := last_step(self._base / "wandb", self.id)) < self.last:
            return (
                f"warning: W&B lacks the steps after {there}: {self._base} may be full. "
                f"metrics.jsonl has them."
            )
        if self.mode == "offline":
            every = os.path.relpath(where.with_name(f"offline-run-*-{self.id}"))
            words = f"W&B is offline; this sends the run there: wandb sync {every}"
        elif timely:
            words = f"W&B has the run: {self._run.url}"
        else:
            words = f"W&B did not take all of it in time; this sends the rest: {sync}"
        return f"{self._warning} {words}".strip()

    # ── its id ───────────────────────────────────────────────────────────────────────────────────

    def _own_id(self) -> str:
        known = read_json(self._folder / "wandb.json").get("id")
        given = os.environ.get("WANDB_RUN_ID")
        if given and ("WANDB_SWEEP_ID" in os.environ or not known):  # a sweep's agent waits for it
            return self._new_id(given)
        return str(known) if known else self._new_id()

    def _new_id(self, new: str = "") -> str:
        new = new or secrets.token_hex(4)
        before = read_json(self._folder / "wandb.json")
        earlier = before.get("earlier", [])
        if before.get("id") not in (None, new):
            earlier = [*earlier, before["id"]]
        document = {"id": new, "earlier": earlier}
        storage.replace(self._folder / "wandb.json", json.dumps(document).encode() + b"\n")
        return new

    def _supersede(self) -> None:
        """Rows that only offline parts have are sent now: nobody shall sync these parts again."""
        for path in (self._base / "wandb").glob(f"offline-run-*-{self.id}/run-{self.id}.wandb"):
            path.with_name(f"{path.name}.synced").touch()

    # ── its beginning ────────────────────────────────────────────────────────────────────────────

    def _begin(self) -> Any:
        import wandb

        if self.mode == "online":
            try:
                return self._init()
            except (wandb.Error, OSError, TimeoutError) as error:
                reason = (f"{error}".splitlines() or [type(error).__name__])[0].strip()
            self.mode = "offline"
            self._warning = f"warning: W&B could not be reached ({reason}), so it went on offline."
            wandb.teardown()
        return self._init()

    def _init(self) -> Any:
        import wandb

        order = self._order
        settings = wandb.Settings(
            console="off",
            silent=True,
            symlink=False,
            save_code=False,
            disable_git=True,
            x_disable_meta=True,  # it would hold the command line
            x_save_requirements=False,
            x_stats_pid=order.parent,
            x_transaction_log_flush_interval=1.0,
            init_timeout=INIT_TIMEOUT,
            finish_timeout=max(1.0, order.patience - 10),
            finish_timeout_raises=True,
        )
        return wandb.init(
            id=self.id, resume="allow", mode=self.mode, dir=str(self._base), settings=settings,
            project=order.project or wandb.setup().settings.project or "launcher",
            entity=order.entity, group=order.group, tags=order.tags or None,
            name=None if "WANDB_NAME" in os.environ else order.name,
        )  # fmt: skip

    def _describe(self) -> None:
        self._run.define_metric("global_step")
        self._run.define_metric("*", step_metric="global_step")
        self._run.config.update(config(read_json(self._folder / "run.json")), allow_val_change=True)

    # ── its end ──────────────────────────────────────────────────────────────────────────────────

    def _best(self) -> None:
        import wandb

        if not (best := read_json(self._folder / "status.json").get("result", {}).get("best")):
            return
        self._run.summary.update({"best": {"step": best["step"], **best["scores"]}})
        place = self._folder / f"step-{best['step']:012d}"
        if self._order.artifact and place.is_dir():
            artifact = wandb.Artifact(f"{self.id}-best", "model", metadata=best)
            artifact.add_dir(str(place), skip_cache=True)
            self._run.log_artifact(artifact, aliases=["best"])


def config(run: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says, as W&B's config: hyperparameters by their names, to filter and sweep by,
    and under `launcher` the run settings, where each value came from, versions and the machine."""

    def values(key: str, part: str) -> dict[str, Any]:
        return {name: field[part] for name, field in run.get(key, {}).items()}

    last = run.get("attempts", [{}])[-1]
    kept = ("name", "data", "exact", "versions", "platform", "git", "launched_by")
    return {
        "launcher": {
            **{key: run.get(key) for key in kept},
            "run_settings": values("run_settings", "value"),
            "origins": values("hyperparameters", "from") | values("run_settings", "from"),
            "machine": {k: v for k, v in last.items() if k not in ("identity", "data")},
            "recipe": Path(run.get("recipe", "")).name,
            "attempts": len(run.get("attempts", [])),
        },
        **values("hyperparameters", "value"),
    }


def _confusion(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Any:
    """W&B's own chart of a confusion matrix, from counts; `wandb.plot` makes it from samples."""
    import wandb

    rows = [
        [true, predicted, counts[i][j]]
        for i, true in enumerate(classes)
        for j, predicted in enumerate(classes)
    ]
    columns: list[str | int] = ["Actual", "Predicted", "nPredictions"]
    return wandb.plot_table(
        vega_spec_name="wandb/confusion_matrix/v1",
        data_table=wandb.Table(columns=columns, data=rows),
        fields={str(column): str(column) for column in columns},
        string_fields={"title": "test/confusion"},
    )


def _picture(place: Path, key: str, case: Mapping[str, Any]) -> Path:
    """A data URI as a file: W&B copies it."""
    path = place / f"{key}-{case['index']}.png"
    path.write_bytes(base64.b64decode(case["picture"].partition(",")[2]))
    return path
