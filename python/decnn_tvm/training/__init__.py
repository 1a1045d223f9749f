# SPDX-License-Identifier: Apache-2.0
"""Train decoupled networks with PyTorch; needs the extra ``train``.

>>> dense = decnn_tvm.load("dense.onnx")
>>> network = decouple_calibrated(dense, images, groups=4, width=1.5)
>>> module = to_torch(network)  # an nn.Module: train it as you train others, or
>>> trained, report = train_network(network, batches, "run", Recipe(epochs=30), teacher=dense)
>>> decnn_tvm.compile(from_torch(network, module), "trained.pkg")
"""

from decnn_tvm.labelled_images import ImageData, LabelledImages, read_image_data
from decnn_tvm.training.answers import accuracy
from decnn_tvm.training.batches import ImageBatches
from decnn_tvm.training.calibrated_decoupling import decouple_calibrated
from decnn_tvm.training.dataset_batches import DatasetBatches
from decnn_tvm.training.finetune import train_network, wire_accuracies
from decnn_tvm.training.folded_norms import restore_batch_norms
from decnn_tvm.training.recipe import Distillation, Recipe
from decnn_tvm.training.torch_module import to_torch
from decnn_tvm.training.trained_weights import from_torch
from decnn_tvm.training.trainer import train
from decnn_tvm.training.wire_rounding import calibrate_wires

__all__ = [
    "DatasetBatches",
    "Distillation",
    "ImageBatches",
    "ImageData",
    "LabelledImages",
    "Recipe",
    "accuracy",
    "calibrate_wires",
    "decouple_calibrated",
    "from_torch",
    "read_image_data",
    "restore_batch_norms",
    "to_torch",
    "train",
    "train_network",
    "wire_accuracies",
]
