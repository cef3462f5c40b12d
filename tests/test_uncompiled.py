"""Runs that compile nothing do without torch's compiler; those that need it get it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import HANGS, write_recipe
from torch import nn

from launcher import uncompiled

SLOW = ("sympy", "torch._dynamo.eval_frame", "torchvision", "sklearn", "wandb", "matplotlib", "PIL")


def in_a_new_interpreter(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=False, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_imports_nothing_slow_that_it_does_not_need() -> None:
    recipe = write_recipe()
    code = (
        "import sys\nfrom launcher.cli import main\n"
        f"assert main(['{recipe}', 'threads=1']) == 0\n"
        f"print('slow', [name for name in {SLOW} if name in sys.modules])\n"
    )
    assert in_a_new_interpreter(code).splitlines()[-1] == "slow []"
    assert Path("checkpoints/tiny/status.json").exists()


def test_what_an_optimizer_alone_would_import() -> None:
    """The negative control: without the stand-in it is there."""
    code = (
        "import sys, torch\n"
        "torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0).step()\n"
        "print('sympy' in sys.modules, 'torch._dynamo.eval_frame' in sys.modules)\n"
    )
    assert in_a_new_interpreter(code).split() == ["True", "True"]


LATER = {
    "a function of it": "assert torch._dynamo.is_compiling() is False",
    "a module of it": "import torch._dynamo.config\nassert torch._dynamo.config.cache_size_limit",
    "a name from it": "from torch._dynamo import reset\nreset()",
    "the compiler": (
        "double = torch.compile(lambda x: 2 * x, backend='eager')\n"
        "assert double(torch.ones(1)) == 2"
    ),
}  # fmt: skip


@pytest.mark.parametrize("need", LATER)
def test_whoever_needs_the_compiler_gets_it(need: str) -> None:
    code = (
        "import sys, torch\nfrom launcher import uncompiled\n"
        "uncompiled.leave_out()\n"
        "weight = torch.zeros(1, requires_grad=True)\n"
        "optimizer = torch.optim.SGD([weight], lr=1.0)\n"
        "assert 'sympy' not in sys.modules\n"
        f"{LATER[need]}\n"
        "assert sys.modules['torch._dynamo'] is torch._dynamo\n"
        "assert 'torch._dynamo.eval_frame' in sys.modules\n"
        "weight.grad = torch.ones(1)\noptimizer.step()\noptimizer.zero_grad()\n"
        "assert weight.item() == -1 and weight.grad is None\n"
    )
    in_a_new_interpreter(code)


def test_a_look_at_all_modules_does_not_import_it() -> None:
    code = (
        "import inspect, sys\nfrom launcher import uncompiled\nuncompiled.leave_out()\n"
        "for module in [*sys.modules.values()]:\n"
        "    hasattr(module, '__file__'), hasattr(module, '__warningregistry__')\n"
        "assert 'sympy' not in sys.modules\n"
        "uncompiled.remove()\nassert 'torch._dynamo' not in sys.modules\n"
    )
    in_a_new_interpreter(code)


def test_one_that_is_there_is_left_alone() -> None:
    import torch._dynamo

    before = sys.modules["torch._dynamo"]
    uncompiled.leave_out()
    uncompiled.remove()
    assert sys.modules["torch._dynamo"] is before is torch._dynamo


def test_a_step_gives_the_same_bits_with_and_without() -> None:
    code = (
        "import sys, torch\nfrom launcher import uncompiled\n"
        "if sys.argv[1:]:\n    uncompiled.leave_out()\n"
        "torch.manual_seed(0)\nmodel = torch.nn.Linear(8, 8)\n"
        "optimizer = torch.optim.AdamW(model.parameters(), fused=True)\n"
        "for _ in range(3):\n"
        "    model(torch.ones(2, 8)).square().sum().backward()\n"
        "    optimizer.step()\n    optimizer.zero_grad()\n"
        "print(model.weight.detach().numpy().tobytes().hex())\n"
    )
    with_it = in_a_new_interpreter(code)
    assert with_it == in_a_new_interpreter(code.replace("sys.argv[1:]", "True"))


def test_the_backward_pass_gives_the_bits_of_torchs_own() -> None:
    from launcher.connect import connect
    from launcher.launch import Launch
    from launcher.settings import Hparams, RunSettings

    world = connect(Launch(), Hparams(epochs=1, batch_size=1), RunSettings())
    gradients = []
    for ours in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
        for share in (1 / 3, 2 / 3):
            loss = model(torch.randn(4, 8)).square().mean()
            if ours:
                world.backward(loss, share)
            else:
                loss.backward(gradient=torch.full((), share))
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
    bad = model(torch.full((4, 8), torch.inf)).square().mean()
    world.backward(bad, 1.0)
    assert all(p.grad is not None and p.grad.isnan().all() for p in model.parameters())
    world.close()
