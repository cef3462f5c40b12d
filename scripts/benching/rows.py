"""The workloads: what is trained, in which batches, and how long a window is."""

from dataclasses import dataclass, replace

PEERS = ("tutorial", "accelerate", "lightning", "ignite", "timm")
COLUMNS = ("launcher", "floor", *PEERS)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One workload of the bench."""

    name: str
    title: str
    network: str
    dataset: str
    """Of the launcher's names; `photos` is the folder that the command line gives."""
    batch_size: int
    steps: int
    """In a window, after the `warmup` steps that are not timed."""
    warmup: int
    windows: int
    check: int
    """Updates after which all columns must be alike."""
    band: float
    """By how much their test accuracies may differ then: a share, not percent."""
    lr: float
    augmented: bool = False
    threads: int | None = None
    """CPU threads of every column; None: one for each core."""
    precision: str = "no"
    columns: tuple[str, ...] = COLUMNS
    tested: int = 2_000
    """Test images that a check looks at."""


_LENET = Row(
    name="lenet-128", title="LeNet, CIFAR-10, batch 128", network="lenet", dataset="cifar10",
    batch_size=128, steps=40, warmup=8, windows=7, check=200, band=0.08, lr=0.02,
)  # fmt: skip
_RESNET = Row(
    name="resnet-128", title="ResNet-34, CIFAR-10, batch 128", network="resnet34",
    dataset="cifar10", batch_size=128, steps=1, warmup=1, windows=3, check=1, band=0.05,
    lr=0.01, columns=("launcher", "floor", "tutorial"), tested=256,
)  # fmt: skip

CPU: tuple[Row, ...] = (
    _LENET,
    replace(
        _LENET, name="lenet-128-augmented", augmented=True,
        title="LeNet, CIFAR-10, batch 128, flip and shift",
    ),
    replace(
        _LENET, name="lenet-4", title="LeNet, CIFAR-10, batch 4, one thread", batch_size=4,
        threads=1, steps=250, warmup=30, check=2500, lr=0.002,
    ),
    replace(
        _LENET, name="lenet-4-augmented", augmented=True, batch_size=4, threads=1, steps=250,
        warmup=30, check=2500, lr=0.002,
        title="LeNet, CIFAR-10, batch 4, one thread, flip and shift",
    ),
    replace(
        _LENET, name="mlp-256", title="MLP, Fashion-MNIST, batch 256", network="mlp",
        dataset="fashion_mnist", batch_size=256, steps=60, check=234, lr=0.05,
    ),
    _RESNET,
    replace(
        _RESNET, name="resnet-128-bf16", title="ResNet-34, CIFAR-10, batch 128, bf16",
        precision="bf16",
    ),
    replace(
        _LENET, name="photos", title="LeNet, a folder of JPEG files, batch 32", dataset="photos",
        batch_size=32, steps=8, warmup=6, windows=5, check=8, lr=0.02, band=0.15,
    ),
)  # fmt: skip

GPU: tuple[Row, ...] = (
    replace(
        _LENET, name="lenet-4-gpu", title="LeNet, CIFAR-10, batch 4", batch_size=4, steps=25_000,
        warmup=100, windows=1, check=2500, lr=0.002,
    ),
    replace(_LENET, name="lenet-128-gpu", steps=400, warmup=50),
    *(
        replace(
            _RESNET, name=f"resnet-512-{precision}-gpu", steps=40, warmup=10, windows=3, check=60,
            title=f"ResNet-34, CIFAR-10, batch 512, flip and shift, {precision}", lr=0.02,
            batch_size=512, precision=precision, augmented=True, tested=2_000, band=0.08,
        )
        for precision in ("no", "bf16")
    ),
)  # fmt: skip


def quick(row: Row) -> Row:
    """The same workload in a few steps: to see that it works, not how fast it is."""
    return replace(
        row, steps=min(row.steps, 3), warmup=1, windows=2, check=min(row.check, 2), band=0.5,
        batch_size=min(row.batch_size, 4 if row.network == "resnet34" else 16), tested=32,
    )  # fmt: skip
