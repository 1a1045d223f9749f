# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decnn_tvm.runtime.wire import MAX_FRAMES, Header, WireError, decode, encode

# A shared machine's speed is no property of the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

headers = st.builds(
    Header,
    cluster=st.binary(min_size=16, max_size=16),
    epoch=st.integers(0, 2**32 - 1),
    sample=st.integers(0, 2**64 - 1),
    movement=st.integers(0, 2**32 - 1),
    source=st.integers(-1, 2**31 - 1),
    target=st.integers(-1, 2**31 - 1),
)
payloads = st.lists(st.binary(max_size=64), max_size=4)


@given(headers, payloads)
def test_round_trip(header: Header, payload: list[bytes]) -> None:
    message = decode(encode(header, payload))
    assert message.header == header
    assert b"".join(message.payload) == b"".join(payload)
    assert message.nbytes == len(b"".join(payload))


@given(headers, payloads, st.data())
def test_any_changed_bit_is_refused(header: Header, payload: list[bytes], data) -> None:
    frames = [bytearray(frame) for frame in encode(header, payload)]
    frame = data.draw(st.sampled_from([f for f in frames if f]))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(WireError):
        decode(frames)


@given(headers, st.lists(st.binary(min_size=1, max_size=64), max_size=4), st.data())
def test_truncated_and_lengthened_messages_are_refused(header, payload, data) -> None:
    frames = [bytes(frame) for frame in encode(header, [*payload, b"end"])]
    index = data.draw(st.integers(0, len(frames) - 1))
    cut = [*frames[:index], frames[index][:-1], *frames[index + 1 :]]
    for wrong in (cut, [*frames, b"x"], frames[1:], frames[:-1], []):
        with pytest.raises(WireError):
            decode(wrong)


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_noise_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(WireError):
        decode(frames)


def test_too_many_frames_are_refused() -> None:
    header = Header(cluster=bytes(16), epoch=0, sample=0, movement=0, source=0, target=1)
    with pytest.raises(WireError, match="65 frames"):
        decode(encode(header, [b""] * MAX_FRAMES))
