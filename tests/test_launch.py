"""What accelerate launch and torchrun leave in the environment, and the starts that are refused."""

import copy
import os
from pathlib import Path

import pytest

from launcher.errors import SettingsError
from launcher.launch import Launch, hidden_config, read

MACHINES = Path(__file__).resolve().parent.parent / "configs" / "machines"

# What accelerate launch 1.15 sets for every command.
ACCELERATE = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
    "OMP_NUM_THREADS": "1",
}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, Launch(), id="python"),
        pytest.param({"PATH": "/bin", "MASTER_PORT": "1"}, Launch(), id="python beside others"),
        pytest.param(
            TORCHRUN,
            Launch(process=3, processes=4, local_processes=2, command="torchrun"),
            id="torchrun",
        ),
        pytest.param(ACCELERATE, Launch(command="accelerate launch"), id="accelerate, one process"),
        pytest.param(
            {**ACCELERATE, **TORCHRUN},
            Launch(process=3, processes=4, local_processes=2, command="accelerate launch"),
            id="accelerate, several processes",
        ),
        pytest.param(
            {**ACCELERATE, "ACCELERATE_USE_CPU": "True"},
            Launch(cpu=True, command="accelerate launch"),
            id="accelerate --cpu",
        ),
        pytest.param(
            {**ACCELERATE, "ACCELERATE_USE_CPU": "False"},
            Launch(command="accelerate launch"),
            id="accelerate on one GPU",
        ),
        pytest.param(
            {**ACCELERATE, "ACCELERATE_MIXED_PRECISION": "bf16"},
            Launch(precision="bf16", command="accelerate launch"),
            id="accelerate in bf16",
        ),
        pytest.param(
            {**ACCELERATE, "ACCELERATE_USE_FSDP": "false", "ACCELERATE_USE_DEEPSPEED": "false"},
            Launch(command="accelerate launch"),
            id="engines that are off",
        ),
    ],
)
def test_a_start_is_recognised(environ: dict[str, str], expected: Launch) -> None:
    before = copy.copy(environ)
    assert read(environ) == expected
    assert environ == before


def test_only_process_0_is_the_main_process() -> None:
    assert read({}).is_main
    assert not read(TORCHRUN).is_main
    assert read({**TORCHRUN, "RANK": "0"}).is_main


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP is not supported"),
        ({"ACCELERATE_USE_FSDP": "True"}, "FSDP is not supported"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed is not supported"),
        ({"ACCELERATE_USE_MEGATRON_LM": "1"}, "Megatron-LM is not supported"),
        ({"MASTER_PORT": "29500"}, "asked for several processes on the CPU and started one"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "dynamo_backend INDUCTOR"),
        ({"ACCELERATE_DYNAMO_BACKEND": "eager"}, "dynamo_backend eager"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "mixed_precision fp8"),
        ({"ACCELERATE_MIXED_PRECISION": ""}, "mixed_precision"),
        ({"RANK": "one"}, "RANK"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE"),
    ],
)
def test_a_start_that_would_do_something_else_is_refused_in_one_sentence(
    extra: dict[str, str], words: str
) -> None:
    with pytest.raises(SettingsError, match=words) as refused:
        read({**ACCELERATE, **extra})
    assert len(refused.value.problems) == 1
    assert str(refused.value).endswith((".", "..."))


def test_the_machine_files_that_a_refusal_names_exist() -> None:
    for extra in ({"ACCELERATE_USE_FSDP": "true"}, {"MASTER_PORT": "1"}):
        with pytest.raises(SettingsError) as refused:
            read({**ACCELERATE, **extra})
        words = str(refused.value).replace(",", " ").split()
        named = [word for word in words if word.startswith("configs/machines/")]
        assert named
        assert all((MACHINES / Path(word).name).is_file() for word in named)


def test_the_environment_of_this_process_is_read_without_an_argument(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert (read().process, read().processes) == (1, 2)


# ── the config that nobody named ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("variable", ["HF_HOME", "XDG_CACHE_HOME", "HOME"])
def test_the_hidden_config_is_found_where_accelerate_reads_it(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"HF_HOME": (), "XDG_CACHE_HOME": ("huggingface",), "HOME": (".cache", "huggingface")}
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    environ = {variable: str(tmp_path / "home")}
    path = (tmp_path / "home").joinpath(*parts[variable]) / "accelerate" / "default_config.yaml"
    assert hidden_config(environ) is None
    path.mkdir(parents=True)
    assert hidden_config(environ) is None, "a folder is no config"
    path.rmdir()
    path.write_text("mixed_precision: fp16\n")
    assert hidden_config(environ) == path


def test_hf_home_wins_and_an_empty_one_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "huggingface" / "accelerate" / "default_config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("")
    assert hidden_config({"XDG_CACHE_HOME": str(tmp_path), "HF_HOME": ""}) == path
    assert hidden_config({"XDG_CACHE_HOME": str(tmp_path), "HF_HOME": "/nowhere"}) is None


# ── against accelerate itself ────────────────────────────────────────────────────────────────────


def environment_of(machine: str) -> dict[str, str]:
    """What `accelerate launch --config_file configs/machines/MACHINE.yaml` sets."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

    words = ["--config_file", str(MACHINES / f"{machine}.yaml"), "recipe.py"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    if arguments.multi_gpu:
        environ: dict[str, str] = prepare_multi_gpu_env(arguments)
    else:
        environ = prepare_simple_launcher_cmd_env(arguments)[1]
    return {key: value for key, value in environ.items() if os.environ.get(key) != value}


@pytest.mark.parametrize("machine", sorted(path.stem for path in MACHINES.glob("*.yaml")))
def test_every_machine_file_is_a_start_that_is_supported(machine: str) -> None:
    found = read(environment_of(machine))
    assert found.command == "accelerate launch"
    assert found.precision == "no"


@pytest.mark.parametrize("machine", ["cpu", "cpu_2"])
def test_a_machine_file_for_the_cpu_uses_the_cpu_where_there_is_a_gpu(machine: str) -> None:
    """Either it says so to us, or it hides the GPUs from torch."""
    environ = environment_of(machine)
    hidden = environ.get("CUDA_VISIBLE_DEVICES", "all").split(",")[0] in ("", "-1")
    assert read(environ).cpu or hidden


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "1"},
        {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
        {"RANK": "0", "WORLD_SIZE": "2"},
    ],
)
def test_half_a_start_of_several_processes_is_refused(environment: dict[str, str]) -> None:
    """`RANK=1` alone would train, save nothing and say nothing."""
    with pytest.raises(SettingsError, match="no start of several processes"):
        read(environment)


def test_gradients_are_not_accumulated_twice() -> None:
    with pytest.raises(SettingsError, match="gradient_accumulation_steps"):
        read({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"})
