"""A folder that `launcher export` wrote, loaded again: images in, the model's outputs out.

    from launcher.exported import load
    network = load("exported/cifar_resnet")
    probabilities = network(images).softmax(1)      # images: uint8, (N, C, H, W)

The folder needs neither the run nor its data set.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from launcher import generators, pretrained, recipe, rng, settings
from launcher.data import Data, finish
from launcher.documents import read_json
from launcher.errors import CheckpointError
from launcher.kept import own_memory
from launcher.recipe import Loaded
from launcher.rng import SampleRng
from launcher.settings import Hparams
from launcher.sources.absent import Known, known

FORMAT = 1


@dataclass(frozen=True)
class Exported:
    """A model in evaluation mode, with its preparation and the names of its classes."""

    model: nn.Module
    data: Data
    """Of sources without samples, for its `prepare` and the transform of its test split."""
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    """Of one input, channels first."""
    seed: int

    def prepare(self, image: Tensor) -> Tensor:
        """Inputs as the test split has them, (N, *shape), as the model takes them."""
        return prepared(self.data, image, self.seed)

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """What the model gives for inputs as the test split has them: (N, *shape), of its dtype;
        uint8 for images."""
        output: Tensor = self.model(self.prepare(image))
        return output


def load(folder: str | Path) -> Exported:
    """The model of an exported folder, on the CPU, in float32.

    Runs the recipe in it, which is code. Raises CheckpointError for a folder that is none, and
    RecipeError for a recipe that does not run.
    """
    place = Path(folder)
    about = read_json(place / "export.json")
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{place} holds no export of this launcher: no export.json of it.")
    loaded = recipe.load(place / "recipe.py")
    hparams = settings.from_json(loaded.recipe.hparams, json.dumps(about["hyperparameters"]))
    data, model = unread(loaded, hparams, about["classes"], about["shape"])
    model.load_state_dict(load_file(place / "model.safetensors"))
    model.eval()
    return Exported(model, data, tuple(about["classes"]), tuple(about["shape"]), hparams.seed)


def unread(
    loaded: Loaded, hparams: Hparams, classes: list[str], shape: list[int]
) -> tuple[Data, nn.Module]:
    """A recipe's data and model while no data set is read. Raises RecipeError and DataError when
    the recipe asks for more than classes and shape."""
    token = known.set(Known(tuple(classes) or None, tuple(shape)))
    try:
        return made(loaded, hparams)
    finally:
        known.reset(token)


def made(loaded: Loaded, hparams: Hparams) -> tuple[Data, nn.Module]:
    """A recipe's data and its model, whose weights follow."""
    pretrained.needed.set(False)  # other weights follow
    generators.seed(first := rng.torch_seed(hparams.seed))
    data: Data = recipe.call(loaded, "data", Data, hparams)
    torch.manual_seed(first)
    generators.seed(first)  # as `build` does
    model: nn.Module = recipe.call(loaded, "model", nn.Module, hparams, data)
    own_memory(model)
    return data, model


def prepared(data: Data, image: Tensor, seed: int) -> Tensor:
    """Images, (N, C, H, W), as the model takes them: after the test split's transform and
    `Data.prepare`, on their device."""
    batch = {"image": image}
    if data.classes:  # there is none, but a preparation may pass it on
        batch["label"] = torch.zeros(len(image), dtype=torch.int64, device=image.device)
    index = torch.zeros(len(image), dtype=torch.int64).numpy()
    return finish(data, data.test, batch, SampleRng(seed, 0, index), image.device)["image"]
