# SPDX-License-Identifier: Apache-2.0
"""``decnn finetune``: a model and images in, a trained model and a report out."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decnn_tvm.cli.decouple import add_structure, asks_for_structure, structure_options
from decnn_tvm.cli.options import Commands, add_command, add_model, load_model, numbers, positive
from decnn_tvm.cli.training_progress import show_training
from decnn_tvm.errors import TrainingError

if TYPE_CHECKING:
    from decnn_tvm.network import Network
    from decnn_tvm.passes.decouple_convolutions import Origin
    from decnn_tvm.training import ImageBatches, Recipe

EXAMPLE = """\
  decnn finetune dense.onnx --data images/ -o trained.onnx --start calibrated --width 1.5 --distill
  decnn finetune grouped.onnx --data cifar10.npz -o trained.onnx --mean 0.5 --std 0.25 --epochs 30
  decnn finetune grouped.onnx --data images/ -o trained.onnx --teacher dense.onnx --distill
  decnn compile trained.onnx -o trained.pkg --workers 4"""

DESCRIPTION = """\
Train a model, and write it with a report (accuracy before and after, cost, exchanges, the effect of
float16 and int8 exchanges) and a learning curve. Ctrl-C keeps the last epoch: the same command goes
on from there, and with --finish writes what is there. Needs PyTorch:
pip install 'decnn-tvm[train]'.

MODEL is decoupled already, or dense. --start decouples a dense one first:
  given       train MODEL as it is (default)
  fresh       decouple it and draw new weights
  inherited   decouple it and keep the weights that stay by chance of their order
  calibrated  put channels into groups where the dense layers lose least, and fit the group
              convolutions by least squares on images; the best start
The last two learn faster with --distill: from the answers of the dense network too."""

STARTS = ("given", "fresh", "inherited", "calibrated")
# As many calibration images as keep an activation of a wide layer within some hundred megabytes.
_CALIBRATION_PIXELS, _FEWEST, _MOST = 2**21, 32, 512


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the command."""
    parser = add_command(
        commands, common, "finetune", "train a model on your images", DESCRIPTION, EXAMPLE
    )
    parser.set_defaults(needs_torch=True)
    add_model(parser)
    parser.add_argument(
        "--data",
        required=True,
        metavar="PATH",
        help="a folder train/CLASS/*, test/CLASS/* (or CLASS/*, of which a tenth is kept for "
        "testing), or an .npz file with x_train, y_train, x_test, y_test of uint8",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="ONNX file to write")
    parser.add_argument(
        "--run",
        metavar="FOLDER",
        help="checkpoint, report, learning curve and decoded images (OUTPUT with .run)",
    )
    parser.add_argument("--start", choices=STARTS, default="given", help="see above (given)")
    add_structure(parser)
    parser.add_argument("--teacher", metavar="FILE", help="dense ONNX model (a dense MODEL itself)")
    parser.add_argument("--distill", action="store_true", help="learn from the teacher too")
    parser.add_argument(
        "--restore-batch-norms",
        action=argparse.BooleanOptionalAction,
        help="give convolutions batch norms back that an exporter folded "
        "(default: where the model has none)",
    )
    _add_recipe(parser)
    parser.add_argument("--mean", type=numbers, metavar="R,G,B",
                        help="mean of pixels in 0..1 (ImageNet's)")  # fmt: skip
    parser.add_argument("--std", type=numbers, metavar="R,G,B",
                        help="their deviation (ImageNet's)")  # fmt: skip
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 … (a GPU if there is)")
    parser.add_argument(
        "--mixed-precision",
        action=argparse.BooleanOptionalAction,
        help="compute in 16 bits what can be so computed (default: on a GPU)",
    )
    parser.add_argument(
        "--finish", action="store_true", help="train no more: write what the last epoch left"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    network = load_model(options)
    _need_torch()
    from decnn_tvm.frontend import save_onnx
    from decnn_tvm.training import train_network

    device = _device(options.device)
    folder = Path(options.run or f"{options.output}.run")
    with show_training() as progress:
        batches = _batches(options, network, folder, device)
        network, teacher = _started(options, network, batches)
        trained, report = train_network(
            network,
            batches,
            folder,
            _recipe(options),
            teacher=teacher,
            start=options.start,
            device=device,
            mixed_precision=options.mixed_precision,
            finish=options.finish,
            progress=progress,
        )
    save_onnx(trained, options.output)
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
        return
    print(report.to_text())
    print(f"model: {options.output}; report and learning curve: {folder}")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--epochs", type=positive, default=90, metavar="N", help="(90)")
    add("--images", type=positive, default=256, metavar="N", help="images of a batch (256)")
    add("--learning-rate", type=float, default=0.01, metavar="RATE", help="(0.01)")
    add("--momentum", type=float, default=0.9, help="(0.9)")
    add("--weight-decay", type=float, default=1e-4, help="(0.0001)")
    add(
        "--schedule",
        choices=("step", "cosine"),
        default="step",
        help="divide the learning rate by 10 after every 30 epochs (default), or along a cosine",
    )
    add("--step-epochs", type=positive, default=30, metavar="N", help="of --schedule step (30)")
    add("--warmup", type=float, default=0.0, metavar="EPOCHS", help="rise of the rate (0)")
    add("--dropout", type=float, default=0.0, metavar="P", help="before dense layers (0)")
    add("--patience", type=positive, metavar="N", help="stop after N epochs without a better one")
    add(
        "--wire",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="train with exchanges rounded as this wire does (float32)",
    )
    add("--no-augment", action="store_true", help="don't shift and mirror training images")


def _recipe(options: argparse.Namespace) -> Recipe:
    from decnn_tvm.training import Distillation, Recipe

    return Recipe(
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        schedule=options.schedule,
        step_epochs=options.step_epochs,
        warmup_epochs=options.warmup,
        dropout=options.dropout,
        wire=options.wire,
        distillation=Distillation() if options.distill else None,
        patience=options.patience,
        seed=options.seed,
    )


def _batches(
    options: argparse.Namespace, network: Network, folder: Path, device: str
) -> ImageBatches:
    from decnn_tvm.cli.samples import IMAGENET_MEAN, IMAGENET_STD
    from decnn_tvm.training import ImageBatches, read_image_data

    shape = network.inputs[0].shape
    if len(network.inputs) != 1 or len(shape) != 4 or shape[1] not in (1, 3):
        raise TrainingError(
            f"{options.model}: the inputs are {[info.shape for info in network.inputs]}; expected "
            "one of (1, channels, height, width) with 1 or 3 channels; train others with "
            "decnn_tvm.training.to_torch and a loop of your own"
        )
    data = read_image_data(
        options.data, (*shape[2:], shape[1]), cache=folder / "images", seed=options.seed
    )
    outputs = network.outputs[0].shape[1] if len(network.outputs[0].shape) > 1 else 1
    if len(data.classes) > outputs:
        raise TrainingError(
            f"{options.data} has {len(data.classes)} classes, and {options.model} tells {outputs} "
            "apart; expected at most as many"
        )
    return ImageBatches(
        data,
        mean=options.mean or IMAGENET_MEAN,
        std=options.std or IMAGENET_STD,
        batch_size=min(options.images, len(data.train.labels)),
        seed=options.seed,
        augment=not options.no_augment,
        device=device,
    )


def _started(
    options: argparse.Namespace, network: Network, batches: ImageBatches
) -> tuple[Network, Network | None]:
    """Return what is trained, and the teacher if there is one."""
    from decnn_tvm.decoupling import decouple
    from decnn_tvm.frontend import load
    from decnn_tvm.training import decouple_calibrated

    size = math.prod(network.inputs[0].shape[2:])
    count = min(_MOST, max(_FEWEST, _CALIBRATION_PIXELS // size))
    images = batches.calibration(count).cpu()
    shapes = dict(options.shape)
    given = load(options.teacher, batch=options.batch, shapes=shapes) if options.teacher else None
    teacher = given if given is not None or network.groups else network
    if options.start == "given":
        if options.distill and given is None:
            raise TrainingError("--distill with --start given: name the dense model by --teacher")
        if asks_for_structure(options):
            raise TrainingError(
                "--groups, --width, --shuffle, --order, --exclude and --preset say what a dense "
                "model is decoupled into, and --start given trains it as it is; give another "
                "--start, or leave them out"
            )
        return _with_norms(options, network, images), given
    if network.groups is not None:
        raise TrainingError(
            f"--start {options.start}: {options.model} is decoupled already, into "
            f"{network.groups} groups; give the dense model, or --start given"
        )
    dense, structure = _with_norms(options, network, images), structure_options(options)
    if options.start == "calibrated":
        return decouple_calibrated(dense, images, seed=options.seed, **structure), teacher
    weights: Origin = "fresh" if options.start == "fresh" else "inherit"
    return decouple(dense, weights=weights, seed=options.seed, **structure), teacher


def _with_norms(options: argparse.Namespace, network: Network, images: Any) -> Network:
    from decnn_tvm.inspection import inspect_network
    from decnn_tvm.training import restore_batch_norms

    wanted = options.restore_batch_norms
    if wanted is None:
        kinds = {layer.kind for layer in inspect_network(network).layers}
        wanted = "nn.batch_norm" not in kinds
    return restore_batch_norms(network, images) if wanted else network


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except Exception as error:  # PyTorch raises several kinds
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(
            f"--device {name}: not there ({reason}); expected cpu or cuda"
        ) from error
    return name


def _need_torch() -> None:
    try:
        import scipy  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise TrainingError(
            f"training needs {error.name}, which is not installed: pip install 'decnn-tvm[train]'"
        ) from error
