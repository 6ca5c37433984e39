from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from services.scoring.protocol import (
    HEADER,
    MAX_TEXT,
    Answer,
    CropsFrame,
    Dropped,
    Failure,
    Hello,
    LiveFace,
    Options,
    PictureFrame,
    ProtocolError,
    Reading,
    Ready,
    UnsupportedProtocol,
    encode_answer,
    encode_frame,
    encode_hello,
    encode_options,
    encode_ready,
    parse_answer,
    parse_frame,
    parse_hello,
    parse_options,
    parse_ready,
)

_SIZE = 8
_MAX_FACES = 4
_FRAMES = st.integers(0, 2**32 - 1)
_SIDES = st.floats(0.5, 4096, width=32)
_PLACES = st.floats(-4096, 4096, width=32)
_WORDS = st.text(max_size=40)
_SHARE = st.floats(0.0, 1.0)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS, inner, max_size=4),
    max_leaves=10,
)


def _parse(message: bytes) -> PictureFrame | CropsFrame:
    return parse_frame(message, crop_size=_SIZE, max_faces=_MAX_FACES)


@st.composite
def _crops_frames(draw: st.DrawFn) -> CropsFrame:
    count = draw(st.integers(0, _MAX_FACES))
    boxes = [(draw(_PLACES), draw(_PLACES), draw(_SIDES), draw(_SIDES)) for _ in range(count)]
    crops = draw(arrays(np.uint8, (count, _SIZE, _SIZE)))
    return CropsFrame(draw(_FRAMES), np.array(boxes, np.float32).reshape(-1, 4), crops)


@st.composite
def _faces(draw: st.DrawFn) -> LiveFace:
    positive, rest = draw(_SHARE), draw(_SHARE)
    shares = {"positive": positive, "neutral": (1 - positive) * rest}
    shares["negative"] = max(0.0, 1.0 - sum(shares.values()))
    side = draw(st.integers(1, 5))
    return LiveFace(
        track=draw(st.integers(0, 2**31 - 1)),
        box=(draw(_PLACES), draw(_PLACES), draw(_SIDES), draw(_SIDES)),
        confidence=draw(st.none() | _SHARE),
        probabilities=shares,
        raw=shares,
        expression=draw(st.sampled_from(sorted(shares))),
        masked=draw(st.booleans()),
        masked_probability=draw(_SHARE),
        orientation=draw(st.sampled_from(["left", "right"])),
        heatmap=draw(st.none() | arrays(np.uint8, (side, side))),
    )


def _answers() -> st.SearchStrategy[Answer]:
    readings = st.builds(
        Reading,
        frame=_FRAMES,
        model=_WORDS,
        server_ms=st.integers(0, 10**6).map(lambda n: n / 100),
        faces=st.lists(_faces(), max_size=3).map(tuple),
    )
    dropped = st.builds(Dropped, frame=_FRAMES, retry_after_s=st.none() | st.floats(0, 60))
    return readings | dropped | st.builds(Failure, error=_WORDS, message=_WORDS, frame=st.none() | _FRAMES)


@given(
    st.uuids(version=4),
    st.booleans(),
    st.booleans(),
    st.none() | st.text(st.characters(codec="ascii"), max_size=50),
)
def test_a_hello_arrives_as_it_was_sent(
    session: uuid.UUID, consent: bool, heatmap: bool, token: str | None
) -> None:
    hello = Hello(str(session), consent=consent, heatmap=heatmap, token=token)
    assert parse_hello(encode_hello(hello)) == hello


@given(st.builds(Options, st.none() | st.booleans(), st.none() | st.booleans()))
def test_options_arrive_as_they_were_sent(options: Options) -> None:
    assert parse_options(encode_options(options)) == options


@given(_FRAMES, st.binary(max_size=64))
def test_a_picture_arrives_as_it_was_sent(number: int, picture: bytes) -> None:
    assert _parse(encode_frame(PictureFrame(number, picture))) == PictureFrame(number, picture)


@given(_crops_frames())
def test_crops_arrive_as_they_were_sent(frame: CropsFrame) -> None:
    arrived = _parse(encode_frame(frame))
    assert isinstance(arrived, CropsFrame)
    assert arrived.frame == frame.frame
    np.testing.assert_array_equal(arrived.boxes, frame.boxes)
    np.testing.assert_array_equal(arrived.crops, frame.crops)


def test_ready_arrives_as_it_was_sent() -> None:
    ready = Ready(
        model={"name": "maskfer", "version": "3", "sha256": "ab"},
        classes=("positive", "negative"),
        orientations=("left", "right"),
        crop_size=96,
        crop_context=1.25,
        window=2,
        max_message_bytes=2**21,
        max_faces=16,
    )
    assert parse_ready(encode_ready(ready)) == ready


@given(_answers())
def test_an_answer_arrives_as_it_was_sent(answer: Answer) -> None:
    arrived = parse_answer(encode_answer(answer))
    # Arrays have no equality of their own, their encoding has.
    assert encode_answer(arrived) == encode_answer(answer)
    assert type(arrived) is type(answer)


@settings(max_examples=500)
@given(st.binary(max_size=600))
def test_random_bytes_are_a_frame_or_a_named_error(message: bytes) -> None:
    _frame_or_named_error(message)


@settings(max_examples=200)
@given(_crops_frames(), st.data())
def test_a_damaged_frame_is_a_frame_or_a_named_error(frame: CropsFrame, data: st.DataObject) -> None:
    message = bytearray(encode_frame(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    _frame_or_named_error(bytes(message[: data.draw(st.integers(0, len(message)))]))


def _frame_or_named_error(message: bytes) -> None:
    frame = _parsed_or_named_error(_parse, message)
    assert frame is None or encode_frame(frame) == message
    if isinstance(frame, CropsFrame):
        assert np.isfinite(frame.boxes).all()
        assert (frame.boxes[:, 2:] > 0).all()


def _parsed_or_named_error(parse: Callable[[Any], Any], message: str | bytes) -> Any:
    try:
        return parse(message)
    except ProtocolError as error:
        if "\n" in str(error):
            raise AssertionError("an error is one line") from error
        return None


@settings(max_examples=150)
@given(
    st.sampled_from(["hello", "options", "ready", "reading", "dropped", "error"]),
    st.dictionaries(
        st.sampled_from(
            [
                "protocol",
                "session",
                "consent",
                "heatmap",
                "token",
                "frame",
                "faces",
                "model",
                "error",
                "server_ms",
            ]
        ),
        _JSON,
    ),
)
def test_no_object_raises_anything_but_the_named_error(kind: str, fields: dict[str, Any]) -> None:
    message = json.dumps({"type": kind, "protocol": 1} | fields)
    for parse in (parse_hello, parse_options, parse_ready, parse_answer):
        _parsed_or_named_error(parse, message)


@settings(max_examples=100)
@given(_faces(), st.data())
def test_a_damaged_reading_is_a_reading_or_a_named_error(face: LiveFace, data: st.DataObject) -> None:
    fields = json.loads(encode_answer(Reading(1, "3", 1.0, (face,))))
    target = data.draw(st.sampled_from([fields["faces"][0], fields["faces"][0]["box"], fields]))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(_JSON)
    _parsed_or_named_error(parse_answer, json.dumps(fields))


def test_an_error_about_a_key_of_the_senders_own_is_one_line() -> None:
    probabilities = {"a\nb": None, "positive": 1.0}
    face = {"box": {"left": 0, "top": 0, "width": 1, "height": 1}, "track": 0, "probabilities": probabilities}
    message = json.dumps({"type": "reading", "frame": 1, "model": "3", "server_ms": 1, "faces": [face]})
    with pytest.raises(ProtocolError) as caught:
        parse_answer(message)
    assert str(caught.value) == (
        r"server: faces: probabilities: 'a\nb' is None, expected a number in [0.0, 1.00001]"
    )


@pytest.mark.parametrize(
    "message",
    ["", "hello", "[]", "null", "1" * 4000, "[" * 4000, '{"type":"hello"', "\ud800", "{" * (MAX_TEXT + 1)],
)
def test_what_is_no_object_is_a_named_error(message: str) -> None:
    for parse in (parse_hello, parse_options, parse_ready, parse_answer):
        with pytest.raises(ProtocolError):
            parse(message)


@pytest.mark.parametrize("version", [0, 2, "1", True, None])
def test_another_protocol_version_has_its_own_error(version: object) -> None:
    fields = json.loads(encode_hello(Hello(str(uuid.uuid4())))) | {"protocol": version}
    with pytest.raises(UnsupportedProtocol, match="this server speaks 1"):
        parse_hello(json.dumps(fields))


_RANDOM = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
_OTHER_KIND = "6f9619ff-8b86-1d01-b42d-00cf4fc964ff"  # of a time and a machine


@pytest.mark.parametrize("session", [None, "", "me", _OTHER_KIND, _RANDOM.upper(), f"{{{_RANDOM}}}"])
def test_a_session_that_is_no_random_uuid_is_refused(session: str | None) -> None:
    with pytest.raises(ProtocolError, match="session"):
        parse_hello(json.dumps({"type": "hello", "protocol": 1, "session": session}))


def test_an_unknown_key_of_a_client_is_refused_and_one_of_a_later_server_passed_over() -> None:
    fields = json.loads(encode_hello(Hello(str(uuid.uuid4())))) | {"name": "me"}
    with pytest.raises(ProtocolError, match="unknown key 'name'"):
        parse_hello(json.dumps(fields))
    assert parse_answer('{"type":"dropped","frame":3,"later":1}') == Dropped(3)


def test_a_token_does_not_show_in_a_hello() -> None:
    assert "s3cret" not in repr(Hello(str(uuid.uuid4()), token="s3cret"))  # noqa: S106


@pytest.mark.parametrize(
    ("header", "rest", "words"),
    [
        ((3, 0, 0, 7), b"", "kind is 3"),
        ((1, 1, 0, 7), b"", "flags"),
        ((1, 0, 1, 7), b"", "a picture's header states 1 faces"),
        ((2, 0, _MAX_FACES + 1, 7), b"", "the limit is 4"),
        ((2, 0, 1, 7), b"\0" * 15, "expected"),
        ((2, 0, 0, 7), b"\0", "expected"),
    ],
)
def test_an_error_says_which_frame_and_why(header: tuple[int, ...], rest: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=f"frame 7: .*{words}"):
        _parse(HEADER.pack(*header) + rest)


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 5), (0, 0, 5, -1), (np.nan, 0, 5, 5), (0, np.inf, 5, 5), (0, 0, 1e7, 5)]
)
def test_a_box_that_is_none_is_refused(box: tuple[float, ...]) -> None:
    frame = CropsFrame(1, np.array([box], np.float32), np.zeros((1, _SIZE, _SIZE), np.uint8))
    with pytest.raises(ProtocolError, match="a box"):
        _parse(encode_frame(frame))
