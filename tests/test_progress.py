"""A progress bar appears on stderr when a wait is long, one single step included, and never before."""

import time

import pytest

from archcost import progress
from archcost.progress import Progress


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(progress, "DELAY_SECONDS", 0.02)


def test_a_long_single_step_is_seen(soon, capsys):
    with Progress(3, "counting [red] things", show=True) as bar:
        bar.step()
        time.sleep(0.5)
    out, err = capsys.readouterr()
    assert out == ""
    assert "counting [red] things" in err
    assert "1/3" in err


def test_a_short_wait_shows_nothing(capsys):
    with Progress(3, "counting", show=True) as bar:
        bar.step(3)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("show", [None, False])
def test_without_a_terminal_nothing_is_drawn(soon, capsys, show):
    with Progress(3, "counting", show=show):
        time.sleep(0.2)
    assert capsys.readouterr() == ("", "")


def test_it_is_taken_away_also_after_an_error(soon):
    with pytest.raises(KeyError), Progress(3, "counting", show=True) as bar:  # noqa: PT012 - it has to wait
        time.sleep(0.3)
        raise KeyError
    assert bar._bar is not None
    assert not bar._bar.live.is_started
