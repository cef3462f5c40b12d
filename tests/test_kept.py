"""What a checkpoint would lose is refused, and what it keeps is the same after an interruption."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from conftest import command, noted, write_recipe
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import SGD

from launcher import checkpoint, pretrained
from launcher.errors import CheckpointError, RecipeError
from launcher.kept import Kept, own_memory, refuse

RUN = Path("checkpoints/r")

NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(16, 4)
        self.begin()

    def begin(self): pass
    def train_on(self, x): pass
    def use(self, y): return y

    def forward(self, image):
        if self.training:
            with torch.no_grad():
                self.train_on(image.flatten(1))
        return self.use(self.last(image.flatten(1)))

def model(hparams, data): return Own()

class Own(Net):
"""


def hooked(model: nn.Module, hook: Callable[..., Any]) -> None:
    model.register_state_dict_post_hook(hook)  # type: ignore[no-untyped-call]


def net(*lines: str) -> str:
    return NET + "".join(f"    {line}\n" for line in lines)


def run(extra: str, *given: str) -> int:
    return command(write_recipe(extra), "name=r", "threads=1", "log_every=1", *given)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    shown = capsys.readouterr()
    return " ".join(f"{shown.out} {shown.err}".replace("│", " ").split())


def same_after_an_interruption(extra: str, *given: str) -> bool:
    """Whether a run that stops after each step and continues ends as one that does not."""
    assert run(extra, *given) == 0
    last = checkpoint.folder_of(RUN, 8)
    whole = load_file(last / "model.safetensors"), load_file(last / "optimizer.safetensors")
    shutil.rmtree(RUN)
    while (code := run(extra, "max_minutes=1e-9", *given)) != 0:
        assert code == 75
    again = load_file(last / "model.safetensors"), load_file(last / "optimizer.safetensors")
    return all(
        one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
        for one, other in zip(whole, again, strict=True)
    )


# ── before the first step ───────────────────────────────────────────────────────────────────────


EXTRA = net(
    "n = 0",
    "def get_extra_state(self): return torch.tensor(self.n)",
    "def set_extra_state(self, state): self.n = int(state)",
)
HOOKED = net(
    "def begin(self): self.last.register_state_dict_post_hook(self.widened)",
    "@staticmethod",
    "def widened(module, state, prefix, _):",
    "    state[prefix + 'weight'] = state[prefix + 'weight'].double()",
)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (EXTRA, "gives _extra_state to its state_dict as a tensor that is none of its parameters"),
        (HOOKED, "gives last.weight to its state_dict as a tensor that is none of its parameters"),
        (net("def begin(self): self.register_buffer('graph', torch.eye(4).to_sparse())"),
         "keeps graph as a sparse tensor, which a checkpoint cannot hold"),
        (net("def begin(self): self.register_buffer('z', torch.zeros(2, dtype=torch.complex128))"),
         "keeps z as torch.complex128, which a checkpoint cannot hold"),
    ],
)  # fmt: skip
def test_what_would_not_come_back_is_refused_before_the_run_is_begun(
    extra: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(extra) == 3
    assert f"recipe.model in tiny.py {words}" in said(capsys)
    assert not RUN.exists()


def test_nothing_is_loaded_into_a_model_that_gives_copies() -> None:
    """By no verb: its first weights would be taken for those of the run."""
    model = nn.Linear(2, 1)
    optimizer = SGD(model.parameters())
    checkpoint.save(RUN, 1, model, optimizer, {})
    hooked(model, lambda _, state, *__: state.update(bias=torch.zeros(1)))
    with pytest.raises(RecipeError, match="bias to its state_dict as a tensor that is none"):
        checkpoint.restore(checkpoint.read(RUN, 1), model, optimizer)


def test_tied_viewed_and_renamed_tensors_are_the_models_own() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.weight = one.weight
    model = nn.Sequential(one, other)
    model.register_buffer("part", one.bias.detach()[1:])
    model.register_buffer("nothing", torch.zeros(0, 3))
    hooked(model, lambda _, state, *__: state.update(b=state.pop("part")))
    refuse(model)
    Kept(model, SGD(model.parameters())).check()


# ── what is expanded ────────────────────────────────────────────────────────────────────────────


EXPANDED = net(
    "def begin(self):",
    "    self.register_buffer('scale', torch.ones(1).expand(4))",
    "    self.shift = nn.Parameter(torch.zeros(1).expand(4), requires_grad=False)",
    "def use(self, y): return y * self.scale + self.shift",
)


@pytest.mark.parametrize(
    "given", [[], ["ema=0.9"], ["micro_batch_size=4"], ["micro_batch_size=auto"]]
)
def test_a_run_of_an_expanded_buffer_continues(given: list[str]) -> None:
    assert same_after_an_interruption(EXPANDED, *given)


def test_the_verbs_open_a_run_of_an_expanded_buffer() -> None:
    assert run(EXPANDED) == 0
    assert command("evaluate", "r") == 0
    assert command("export", "r") == 0


def test_weights_to_begin_with_go_into_an_expanded_tensor() -> None:
    model = nn.Linear(3, 2)
    model.bias.data = torch.zeros(1).expand(2)
    save_file({"weight": torch.ones(2, 3), "bias": torch.tensor([1.0, 2.0])}, "first.safetensors")
    pretrained.load(model, "first.safetensors", "head")
    assert model.bias.tolist() == [1, 2]


def test_a_tensor_of_two_modules_stays_one() -> None:
    model = nn.ModuleDict({"one": nn.Identity(), "other": nn.Identity()})
    shared = torch.ones(1).expand(3)
    for part in model.values():
        part.register_buffer("scale", shared)
    own_memory(model)
    assert model["one"].scale is model["other"].scale
    assert model.get_buffer("one.scale").stride() == (1,)


# ── after a step ────────────────────────────────────────────────────────────────────────────────


LATE = net(
    "def begin(self): self.register_buffer('late', None)",
    "def train_on(self, x): self.late = x.mean(0)",
)
QUEUE = net(
    "def begin(self): self.register_buffer('queue', torch.zeros(0, 16))",
    "def train_on(self, x): self.queue = torch.cat([self.queue, x.mean(0, keepdim=True)])",
)


@pytest.mark.parametrize(
    "given", ["ema=none", "ema=0.9", "micro_batch_size=4", "micro_batch_size=auto"]
)
@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (LATE, "late was not there and is torch.float32 (16,)"),
        (QUEUE, "queue was torch.float32 (0"),
    ],
)
def test_a_buffer_that_comes_or_grows_is_refused_in_the_first_step(
    extra: str, words: str, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(extra, given) == 3
    found = said(capsys)
    assert "training changed what the model consists of" in found
    assert words in found
    assert noted() == []
    assert checkpoint.steps(RUN) == []


def test_a_buffer_that_grows_later_is_refused_at_the_next_save() -> None:
    model = nn.Linear(2, 1)
    model.register_buffer("queue", torch.zeros(1, 2))
    kept = Kept(model, SGD(model.parameters()))
    kept.check()
    model.queue = torch.zeros(2, 2)
    with pytest.raises(RecipeError, match=r"queue was torch.float32 \(1, 2\) and is .* \(2, 2\)"):
        kept.check()


MOVED = net(
    "def begin(self): self.register_buffer('mean', torch.zeros(16), persistent=PERSISTENT)",
    "def train_on(self, x): self.mean.lerp_(x.mean(0), 0.1)",
    "def use(self, y): return y - self.mean[:4]",
)


@pytest.mark.parametrize("given", [[], ["micro_batch_size=4"], ["--dry-run"]])
def test_a_buffer_that_is_not_saved_must_not_change(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(MOVED.replace("PERSISTENT", "False"), *given) == 3
    assert "training changes mean, which the model's state_dict leaves out" in said(capsys)
    assert checkpoint.steps(RUN) == []


@pytest.mark.parametrize("after", [0, 5])
def test_what_would_be_lost_is_refused_after_the_first_step_or_at_the_next_save(
    after: int,
) -> None:
    extra = net(
        "def begin(self):",
        "    self.register_buffer('count', torch.zeros(()))",
        "    self.register_buffer('mean', torch.zeros(16), persistent=False)",
        "def train_on(self, x):",
        "    self.count += 1",
        f"    self.mean += self.count > {after}",
    )
    assert run(extra) == 3
    assert checkpoint.steps(RUN) == ([4] if after else [])
    assert max((line["step"] for line in noted()), default=0) == (8 if after else 0)


def test_a_buffer_that_is_saved_may_change() -> None:
    assert same_after_an_interruption(MOVED.replace("PERSISTENT", "True"))


CONSTANT = net(
    "def begin(self):",
    "    mask = torch.triu(torch.full((4, 4), -math.inf), 1)",
    "    self.register_buffer('mask', mask, persistent=False)",
    "    self.register_buffer('odd', torch.tensor([-0.0, math.nan]), persistent=False)",
    "def use(self, y): return y @ self.mask.softmax(1)",
)


@pytest.mark.parametrize("given", [[], ["ema=0.9"], ["micro_batch_size=4"]])
def test_a_constant_that_is_not_saved_is_fine(given: list[str]) -> None:
    assert same_after_an_interruption(f"import math\n{CONSTANT}", *given)


def test_a_trained_parameter_that_a_hook_leaves_out_is_refused() -> None:
    model = nn.Linear(2, 1)
    hooked(model, lambda _, state, *__: state.__delitem__("bias"))
    refuse(model)
    kept = Kept(model, SGD(model.parameters()))
    kept.check()
    model.bias.data += 1
    with pytest.raises(RecipeError, match="training changes bias"):
        kept.check()


TABLE = net(
    "def begin(self): self.register_buffer('table', None, persistent=False)",
    "def use(self, y):",
    "    if self.table is None or len(self.table) != len(y): self.table = torch.arange(len(y))",
    "    return y",
)


def test_a_table_of_another_size_that_is_not_saved_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr("launcher.kept.log.warning", lambda words, *which: said.append(which[0]))
    assert run(TABLE) == 0
    assert said == ["table"]


def test_a_table_of_another_size_is_refused_where_passes_are_undone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(TABLE, "micro_batch_size=4") == 3
    assert "a pass changed the shape of table" in said(capsys)


# ── the optimizer ───────────────────────────────────────────────────────────────────────────────


COUNTING = """
class Counting(torch.optim.SGD):
    n = 0

    def step(self, closure=None):
        super().step(closure)
        group, first = self.param_groups[0], self.state[self.param_groups[0]["params"][0]]
        STEP

def optimizer(hparams, model):
    return Counting([{"params": list(model.parameters()), "scale": torch.ones(2)}], lr=0.1)
"""


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("group['scale'] += 1", "changes scale of a parameter group and keeps it as Tensor"),
        ("group['new'] = {'n': 1}", "changes new of a parameter group and keeps it as dict"),
        ("self.state['all'] = {'n': 1}", "keeps state['all'] that belongs to no parameter"),
        ("self.add_param_group({'params': [nn.Parameter(torch.ones(1))]})",
         "has 2 parameter groups and had 1"),
        ("first['past'] = [1.0]", "keeps past of layers.1.weight as list"),
        ("first['wide'] = torch.zeros(1, dtype=torch.complex128)",
         "keeps layers.1.weight/wide as torch.complex128, which a checkpoint cannot hold"),
        ("first[0] = torch.zeros(1)",
         "keeps state of layers.1.weight under 0, which would come back under '0'"),
        ("first['a'] = first['b'] = torch.zeros(1)",
         "keeps layers.1.weight/b in the memory of layers.1.weight/a"),
        ("first['a'], first['b'] = torch.zeros(2, 3).unbind()",
         "keeps layers.1.weight/b in the memory of layers.1.weight/a"),
        ("self.state[group['params'][1]]['a'] = first.setdefault('a', torch.zeros(1))",
         "keeps layers.1.bias/a in the memory of layers.1.weight/a"),
        ("first['slow'] = group['params'][0].data",
         "keeps layers.1.weight/slow in the memory of layers.1.weight"),
        ("group.pop('scale', 0)", "takes scale out of a parameter group"),
        ("group.pop('dampening', 0)", "takes dampening out of a parameter group"),
        ("group[0] = 1", "changes 0 of a parameter group and keeps it as int"),
        ("group['size'] = torch.Size([1])",
         "changes size of a parameter group and keeps it as Size"),
    ],
)  # fmt: skip
def test_state_of_an_optimizer_that_would_be_lost_is_refused_after_the_first_step(
    step: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(COUNTING.replace("STEP", step), "--dry-run") == 5
    assert words in said(capsys)


@pytest.mark.parametrize(
    "step",
    [
        "group['best'] = math.inf; first['best'] = -math.inf; first['odd'] = math.nan",
        "group['pair'] = (math.inf, group.get('pair', (0, 0))[1] + 1)",
        "group['n'] = group.get('n', 0) + 1; first['n'] = torch.tensor(float(group['n']))",
        "group['past'] = group.get('past', ()) + (len(group.get('past', ())),)",
        "first['a/b'] = first.get('a/b', torch.zeros(1)) + 1",
        "first['n'] = first.get('n', torch.zeros(1)) + ('last' not in first); first['last'] = None",
    ],
)
def test_state_of_an_optimizer_that_is_saved_comes_back(step: str) -> None:
    assert same_after_an_interruption(f"import math\n{COUNTING.replace('STEP', step)}")


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "ASGD": {}, "Adadelta": {}, "Adafactor": {"foreach": False}, "Adagrad": {},
    "Adam": {"amsgrad": True}, "AdamW": {}, "Adamax": {}, "NAdam": {}, "RAdam": {},
    "RMSprop": {"momentum": 0.9, "centered": True}, "Rprop": {}, "SGD": {"momentum": 0.9},
}  # fmt: skip


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_of_the_optimizers_of_torch_is_refused(name: str, foreach: bool) -> None:
    model = nn.Linear(2, 3)
    given = {"foreach": foreach} | OPTIMIZERS[name]
    optimizer: torch.optim.Optimizer = getattr(torch.optim, name)(model.parameters(), **given)
    kept = Kept(model, optimizer)
    for _ in range(2):
        model(torch.ones(1, 2)).square().sum().backward()
        optimizer.step()
        assert optimizer.state
        kept.check()


def test_constants_of_any_kind_in_a_parameter_group_are_fine() -> None:
    model = nn.Linear(2, 1)
    odd: dict[Any, Any] = {
        0: 1,
        "size": torch.Size([1]),
        "by": max,
        "dtype": torch.float32,
        "more": {"a": [torch.ones(1), float("nan")]},
    }
    optimizer = SGD([{"params": list(model.parameters()), **odd}], lr=0.1)
    cast(Any, optimizer.state)["nothing"]
    kept = Kept(model, optimizer)
    kept.check()
    optimizer.param_groups[0]["more"]["a"][0] += 1
    with pytest.raises(CheckpointError, match="SGD changes more of a parameter group"):
        kept.check()


# ── what is kept in Python ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (net("n = 0", "def train_on(self, x): self.n += 1"), ": n."),
        (COUNTING.replace("STEP", "self.n += 1"), ": recipe.optimizer: n."),
        ("seen = []\ndef loss(model, batch):\n    seen.append(1)\n"
         "    return losses.cross_entropy(model, batch)", ": recipe.loss: seen."),
    ],
)  # fmt: skip
def test_a_count_in_python_is_said_once_an_attempt(
    extra: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(extra) == 0
    found = said(capsys)
    assert found.count("a step changes what is kept in Python and not in checkpoints") == 1
    assert f"not in checkpoints{name}" in found


@pytest.mark.parametrize("given", [[], ["ema=0.9"], ["micro_batch_size=4"], ["grad_clip=1"]])
def test_nothing_is_said_of_a_network_that_counts_nothing(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    extra = net(
        "def begin(self):",
        "    self.norm = nn.BatchNorm1d(4)",
        "    self.last = nn.utils.parametrizations.spectral_norm(self.last)",
        "def use(self, y): return nn.functional.dropout(self.norm(y), 0.1, self.training)",
    )
    assert run(extra, *given) == 0
    assert "kept in Python" not in said(capsys)
