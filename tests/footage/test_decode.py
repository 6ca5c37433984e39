from __future__ import annotations

import os
import shutil
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from maskfer.errors import VideoError
from maskfer.footage.decode import Video, probe, read_frames
from tests.films import ffmpeg, truncated


def test_a_file_states_its_frames_and_when_they_are_shown(video: Video) -> None:
    assert (video.frames, video.width, video.height) == (72, 192, 192)
    np.testing.assert_allclose(video.times_s, np.arange(72) / 12.0, atol=1e-6)
    assert video.fps == pytest.approx(12.0)


def test_every_frame_is_read_once_and_in_order(video: Video) -> None:
    frames = list(read_frames(video, video.sample(None)))
    assert [frame.index for frame in frames] == list(range(72))
    assert [frame.time_s for frame in frames] == video.times_s.tolist()
    assert frames[0].image.shape == (192, 192, 3)


@pytest.mark.parametrize("length", [1, 7, 30])
def test_segments_together_give_the_frames_of_the_whole(video: Video, length: int) -> None:
    wanted = video.sample(None)
    whole = {frame.index: frame.image for frame in read_frames(video, wanted)}
    parts = [
        frame
        for start in range(0, len(wanted), length)
        for frame in read_frames(video, wanted[start : start + length])
    ]
    assert [frame.index for frame in parts] == wanted.tolist()
    assert all(np.array_equal(frame.image, whole[frame.index]) for frame in parts)


def test_sampling_takes_the_asked_number_of_frames_a_second(video: Video) -> None:
    assert video.sample(4.0).tolist() == list(range(0, 72, 3))
    assert len(video.sample(5.0)) == 30
    assert video.sample(100.0).tolist() == list(range(72))


def test_frames_of_uneven_length_keep_their_own_times(clip: Path, tmp_path: Path) -> None:
    uneven = tmp_path / "uneven.mp4"
    ffmpeg("-i", clip, "-vf", "select='not(mod(n,3))+not(mod(n,7))'", "-fps_mode", "vfr", uneven)
    video = probe(uneven)
    shown = [n for n in range(72) if n % 3 == 0 or n % 7 == 0]
    np.testing.assert_allclose(video.times_s, np.array(shown) / 12.0, atol=1e-3)
    assert [frame.index for frame in read_frames(video, video.sample(None)[5:9])] == [5, 6, 7, 8]


def test_frames_that_are_decoded_but_not_shown_do_not_count(clip: Path, tmp_path: Path) -> None:
    h264, cut = tmp_path / "h264.mp4", tmp_path / "cut.mp4"
    ffmpeg("-i", clip, "-c:v", "libx264", "-g", "24", h264)
    ffmpeg("-ss", "3.3", "-i", h264, "-c", "copy", cut)
    video = probe(cut)
    assert [frame.index for frame in read_frames(video, video.sample(None))] == list(range(video.frames))
    assert video.frames < 36


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".ts", ".webm"])
def test_other_containers_give_the_same_frames(clip: Path, tmp_path: Path, suffix: str) -> None:
    other = tmp_path / f"other{suffix}"
    codec = {".mkv": "libx264", ".avi": "mpeg4", ".ts": "libx264", ".webm": "libvpx"}[suffix]
    ffmpeg("-i", clip, "-c:v", codec, other)
    video = probe(other)
    assert video.frames == 72
    assert [frame.index for frame in read_frames(video, video.sample(3.0))] == video.sample(3.0).tolist()


def test_a_truncated_file_says_where_it_breaks_off(clip: Path, tmp_path: Path) -> None:
    broken = truncated(clip, tmp_path / "broken.mp4")
    with pytest.raises(
        VideoError, match=r"broken\.mp4: breaks off at \d+\.\d\d s, frame \d+ .*copy it again"
    ):
        probe(broken)


def test_a_file_without_its_end_is_not_decodable(clip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:5000])
    with pytest.raises(VideoError, match=r"not decodable as video \(moov atom not found\)"):
        probe(broken)


def test_a_damaged_middle_is_noticed(clip: Path, tmp_path: Path) -> None:
    video = probe(clip)
    (tmp_path / "shorter.mp4").write_bytes(clip.read_bytes())
    imagined = Video(tmp_path / "shorter.mp4", np.append(video.times_s, 9.0), video.width, video.height)
    with pytest.raises(VideoError, match=r"decoding ends at 5\.92 s, before frame 72 at 9\.00 s"):
        list(read_frames(imagined, np.array([70, 71, 72])))


@pytest.mark.parametrize("content", [b"", b"hello, this is no video\n" * 20, b"\xff\xd8\xff garbage"])
def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match="not decodable as video") as caught:
        probe(path)
    assert "\n" not in str(caught.value)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", sound)
    with pytest.raises(VideoError, match="no video stream"):
        probe(sound)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.mp4", tmp_path):
        with pytest.raises(VideoError, match="no such file"):
            probe(path)


def test_a_name_that_is_not_utf_8_is_refused_readably(clip: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    shutil.copyfile(clip, odd)
    with pytest.raises(VideoError, match=r"caf\\xe9\.mp4: the name is not UTF-8.*rename") as caught:
        probe(odd)
    str(caught.value).encode("utf-8")


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("kill -KILL $$", "ffmpeg was ended by signal 9 while it read the file"),
        ("exit 3", r"breaks off at .* \(ffmpeg ended with exit code 3\)"),
    ],
)
def test_an_ffmpeg_that_ends_early_without_a_word_is_one_line(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, said: str
) -> None:
    ffmpeg_ends = tmp_path / "ffmpeg"
    ffmpeg_ends.write_text(f'#!/bin/sh\n"{imageio_ffmpeg.get_ffmpeg_exe()}" "$@"\n{end}\n')
    ffmpeg_ends.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg_ends))
    with pytest.raises(VideoError, match=said) as caught:
        probe(clip)
    assert "\n" not in str(caught.value)


def test_a_playlist_does_not_reach_other_files(clip: Path, tmp_path: Path) -> None:
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\nhttp://127.0.0.1:9/{clip.name}\n")
    with pytest.raises(VideoError):
        probe(playlist)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "frames"), [("no-face", 95), ("portrait", 472), ("single-face", 72), ("two-people", 275)]
)
def test_real_clips_decode_to_their_last_frame(shared_dir: Path, name: str, frames: int) -> None:
    video = probe(shared_dir / "footage" / f"{name}.mp4")
    last = video.sample(None)[-2:]
    assert video.frames == frames
    assert [frame.index for frame in read_frames(video, last)] == [frames - 2, frames - 1]
