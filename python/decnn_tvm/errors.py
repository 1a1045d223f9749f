# SPDX-License-Identifier: Apache-2.0
"""Every error that decnn_tvm raises on purpose.

::

    DecnnError
    ├── ModelError        the network: no such file, not ONNX, unsupported operator, shape or opset
    ├── DecoupleError     a decoupling that was asked for can't be had
    ├── PartitionError    the network can't be split as asked (workers, groups, shares)
    ├── PlanningError     several devices are not worth it, or nothing fits their memory
    ├── CompileError      no code for a layer or a target
    ├── PackageError      a damaged, foreign or mismatching package
    ├── RecordsError      tuning records: none there, damaged, can't be written
    ├── TrainingError     options, data or a checkpoint that training can't use
    ├── InputError        a sample, or labelled images, of the wrong shape, dtype or content
    └── ClusterError      workers: unreachable, refused, died
        ├── ClusterTimeout    a wait that ran out
        └── MemoryShortage    a worker's memory does not hold its channel groups

A message names the object, what was expected, what came, and the remedy.
"""

from __future__ import annotations


def last_line(error: Exception) -> str:
    """Return the last line of a message: what others' errors end with, below their traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


class DecnnError(Exception):
    """Root of all errors of this package."""


class ModelError(DecnnError):
    """The network can't be read, or holds something that isn't supported."""


class DecoupleError(DecnnError):
    """A decoupling that was asked for can't be had on this network."""


class PartitionError(DecnnError):
    """The network can't be split over devices as asked."""


class PlanningError(DecnnError):
    """Several devices are not worth it for this network, or nothing fits their memory."""


class CompileError(DecnnError):
    """No code can be generated for a layer or a target."""


class PackageError(DecnnError):
    """A package is damaged, foreign, or does not fit this machine or version."""


class RecordsError(DecnnError):
    """Tuning records are missing, damaged, or can't be written."""


class TrainingError(DecnnError):
    """Options, data or a checkpoint that training can't use, or a training that diverged."""


class InputError(DecnnError):
    """A sample or images have a wrong name, shape, dtype or content, an address the wrong form."""


class ClusterError(DecnnError):
    """A worker is unreachable, refused, or died."""


class ClusterTimeout(ClusterError):
    """A bounded wait on a worker ran out."""


class MemoryShortage(ClusterError):
    """A worker's memory does not hold its channel groups."""
