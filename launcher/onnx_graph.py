"""An exported model as one ONNX graph: preparation and network, for any number of inputs."""

import logging
import warnings
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from launcher import uncompiled
from launcher.errors import LauncherError, RecipeError
from launcher.exported import Exported

TOLERANCE: Final = 1e-3
"""Largest difference of an output from torch's, relative to the largest output."""


class _Whole(nn.Module):
    """Preparation and model, with nothing between them that a graph cannot hold."""

    def __init__(self, network: Exported) -> None:
        super().__init__()
        self.model = network.model
        self._network = network

    def forward(self, image: Tensor) -> Tensor:
        batch = {"image": image}
        if self._network.classes:
            batch["label"] = torch.zeros(image.shape[0], dtype=torch.int64)  # not len: any number
        output: Tensor = self.model(self._network.data.prepare(batch)["image"])
        return output


def write_onnx(folder: Path, network: Exported) -> str:
    """Write model.onnx and compare it with torch; a sentence about the difference.

    The extra is installed. Raises RecipeError for a model that torch cannot export or that comes
    out as another one.
    """
    import onnxruntime

    if network.data.test.transform is not None:
        raise RecipeError(
            "--onnx: the test split has a transform, which draws from SampleRng and cannot be part "
            "of a graph. Do in Data.prepare what is always done."
        )
    example = _example(network, 2)
    network(example)  # constants of the preparation are made, as tensors that a graph can hold
    path = folder / "model.onnx"
    uncompiled.remove()
    for name in ("onnxscript", "onnx_ir"):  # which tell of every pass
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's exporter, about itself
            torch.onnx.export(
                _Whole(network).eval(), (example,), str(path), dynamo=True, verbose=False,
                input_names=["image"], output_names=["output"], external_data=False,
                dynamic_shapes={"image": {0: torch.export.Dim("images")}},
            )  # fmt: skip
    except LauncherError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise RecipeError(f"--onnx: torch cannot export this model: {first}") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = _example(network, 3)
    expected = network(image)
    (output,) = session.run(None, {"image": image.numpy()})
    most = float((torch.from_numpy(output) - expected).abs().max())
    if not most <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise RecipeError(f"--onnx: the graph's outputs differ from the model's by {most:g}.")
    return f"model.onnx: its outputs differ from the model's by {most:.1g} at most"


def _example(network: Exported, count: int) -> Tensor:
    """Random inputs; bytes, or numbers for a preparation that does not take bytes."""
    bytes_ = torch.randint(0, 256, (count, *network.shape), dtype=torch.uint8)
    try:
        network(bytes_)
    except (LauncherError, RuntimeError):
        return torch.randn(count, *network.shape)
    return bytes_
