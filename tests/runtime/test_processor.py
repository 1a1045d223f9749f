# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from decnn_tvm.runtime import processor
from decnn_tvm.runtime.processor import (
    hardware_capabilities,
    normal_machine,
    processor_features,
)


def test_the_features_are_those_that_linux_shows() -> None:
    text = Path("/proc/cpuinfo").read_text()
    shown = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    assert shown and set(processor_features()) <= set(shown.group(1).split())
    assert {"x86_64": "sse2", "aarch64": "asimd"}[platform.machine()] in processor_features()


def test_the_kernels_words_on_aarch64() -> None:
    # AT_HWCAP and AT_HWCAP2 of a Cortex-A72 and of a Cortex-A76 under Linux.
    known = ("fp", "asimd", "aes", "pmull", "sha1", "sha2", "crc32")
    assert hardware_capabilities(0x8FF, 0) == known
    newer = hardware_capabilities(0x10FFFF, 1 << 13)
    assert {"atomics", "asimdhp", "asimddp", "lrcpc", "i8mm"} <= set(newer)
    assert not {"sve", "sve2", "bf16"} & set(newer)


def test_a_board_is_asked_by_its_auxiliary_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(processor, "_auxiliary", {16: 0b10, 26: 0b10}.__getitem__)
    assert processor_features() == ("asimd", "sve2")


@pytest.mark.parametrize(
    ("name", "machine"),
    [("x86_64", "x86_64"), ("AMD64", "x86_64"), ("arm64", "aarch64"), ("armv8l", "armv7l")],
)
def test_machines_have_one_name(name: str, machine: str) -> None:
    assert normal_machine(name) == machine
