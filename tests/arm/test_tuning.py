# SPDX-License-Identifier: Apache-2.0
"""MetaSchedule's trials on an emulated board: a real tracker, and a worker that tunes as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import decnn_tvm
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.testing import zoo
from decnn_tvm.testing.boards import free_port, known_boards, running_tracker, wait_until
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs

TRIALS = 2
PATIENT = Policy(beat=0.5, silence=20.0, orphan=300.0)


def test_a_worker_tunes_and_runs_what_was_found(boards: Any, tmp_path: Path, figures: Any) -> None:
    model = zoo.small("resnet18")
    network = decnn_tvm.load(model)
    records = tmp_path / "records"
    options = {"workers": 1, "winograd": False}
    with running_tracker() as tracker:
        where = ("--tuning", tracker, "--tuning-key", "rpi4", "--tuning-port", free_port())
        (board,) = boards.start(1, *where)
        wait_until(lambda: known_boards(tracker, "rpi4") == 1)
        report = decnn_tvm.tune(
            network,
            records,
            target="rpi4",
            cores=1,
            trials=TRIALS,
            timeout=120,
            tracker=tracker,
            key="rpi4",
            **options,
        )
        failed = [task.failures for task in report.tasks if task.failures]
        assert not failed and all(task.measured == TRIALS for task in report.tasks)
        figures["trials on an emulated board"] = TRIALS * len(report.tasks)
        figures["seconds per trial"] = round(
            report.seconds / figures["trials on an emulated board"], 2
        )
        package = decnn_tvm.compile(
            network, tmp_path / "pkg", targets=["rpi4"], cores=1, records=records, **options
        )
        samples = random_inputs((1, 3, 64, 64), 3, seed=4)
        with decnn_tvm.connect([board.address], timeout=300) as cluster:
            with cluster.deploy(package, policy=PATIENT) as session:
                ours = [session.run(sample) for sample in samples]
    assert_logits_match(ours, reference_outputs(model, samples))
