"""A small GAN: two models with two optimizers, in a loop of its own. See docs/own_loop.md.

python scripts/gan.py                         # Fashion-MNIST; and again, to continue
python scripts/gan.py dataset=digits epochs=5 # no download
"""

import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from launcher import Data, Hparams, Split, augment, own_loop, sources


@dataclass(frozen=True, kw_only=True)
class GanHparams(Hparams):
    epochs: int = 20
    batch_size: int = 128
    dataset: str = "fashion_mnist"
    lr: float = 2e-4
    noise: int = 64  # numbers that an image is made from


def train(loop: own_loop.OwnLoop[GanHparams]) -> None:
    hparams = loop.hparams
    data = Data(
        train=Split(sources.load(hparams.dataset, "train", size=32, channels=1)),
        test=Split(sources.load(hparams.dataset, "test", size=32, channels=1)),
        prepare=augment.normalize(mean=(0.5,), std=(0.5,)),
    )
    generator, critic = generator_of(hparams.noise).to(loop.device), critic_of().to(loop.device)
    models = {"generator": generator, "critic": critic}
    optimizers = {
        name: torch.optim.Adam(model.parameters(), lr=hparams.lr, betas=(0.5, 0.999))
        for name, model in models.items()
    }
    for _, batch in loop.steps(data, models=models, optimizers=optimizers):
        fake = generator(torch.randn(hparams.batch_size, hparams.noise, device=loop.device))
        seen = against(critic(batch["image"]), 1.0) + against(critic(fake.detach()), 0.0)
        update(optimizers["critic"], seen)
        fooled = against(critic(fake), 1.0)
        update(optimizers["generator"], fooled)
        loop.note({"train/critic": seen, "train/generator": fooled})
    torch.manual_seed(hparams.seed)
    with torch.no_grad():
        images = generator.eval()(torch.randn(64, hparams.noise, device=loop.device))
    save_image(images, loop.folder / "samples.png", normalize=True, value_range=(-1, 1))


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def against(scores: Tensor, verdict: float) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(scores, torch.full_like(scores, verdict))


def generator_of(noise: int) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (noise, 1, 1)), nn.ConvTranspose2d(noise, 64, 4, bias=False),
        nn.BatchNorm2d(64), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False),
        nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False),
        nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def critic_of() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1),
        nn.LeakyReLU(0.2), nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(),
        nn.Linear(64 * 4 * 4, 1),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(own_loop.run(train, GanHparams))
