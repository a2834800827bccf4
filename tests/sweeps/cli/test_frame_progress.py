"""Progress lines of frame counts, with speed and time left."""

from sweeps.cli.frame_progress import FrameProgress


def test_the_time_left_ignores_earlier_frames_and_the_start_of_workers(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr("sweeps.cli.frame_progress.time.monotonic", lambda: now)
    progress = FrameProgress(1000, done_before=400)
    now += 50
    progress.update(450)
    now += 1
    progress.update(460)  # too soon for another line
    now += 9
    progress.update(550)
    now += 45
    progress.update(1000)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "450 of 1,000 frames (45%), 1 frames/s",
        "550 of 1,000 frames (55%), 10 frames/s, 0:00:45 left",
        "1,000 of 1,000 frames (100%), 6 frames/s",
    ]


def test_a_single_update_has_a_speed(monkeypatch, capsys):
    monkeypatch.setattr("sweeps.cli.frame_progress.time.monotonic", iter((100.0, 110.0)).__next__)
    FrameProgress(50).update(50)
    assert capsys.readouterr().out == "50 of 50 frames (100%), 5 frames/s\n"
