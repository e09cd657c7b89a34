"""archcost store: what it lists, exports, imports and prunes, each error in one line."""

import json
import time

import pytest

from archcost.cli import main
from archcost.latency.store.store import Store
from helpers.measurements import foreign_database, measured


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A store with two measurements, as the environment names it."""
    monkeypatch.setenv("ARCHCOST_STORE", str(tmp_path / "store.sqlite"))
    monkeypatch.chdir(tmp_path)
    with Store() as store:
        store.put_many([measured(at=time.time()), measured(path="native", at=1.0, mark="0" * 16)])
    return tmp_path


def test_the_command_lists_what_is_kept(kept, capsys):
    assert main(["store", "list"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "winograd-4" in out
    assert "64 -> 64, 3x3, padding 1, on 56x56, batch 1" in out
    assert "2 measurements of 2 devices" in out
    assert main(["store", "list", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["path"] for one in listed["measurements"]] == ["native", "winograd-4"]
    assert listed["store"] == str(kept / "store.sqlite")


def test_the_command_exports_and_imports_and_keeps_a_file_that_is_there(kept, capsys):
    assert main(["store", "export", "-o", "lines"]) == 0
    assert main(["store", "export", "-o", "lines"]) == 2
    assert "--force overwrites it" in capsys.readouterr().err
    assert main(["store", "export"]) == 0
    assert capsys.readouterr().out == (kept / "lines").read_text()
    assert main(["store", "import", "lines", "--store", "other"]) == 0
    assert capsys.readouterr().err == "2 measurements read\n"
    assert Store("other").all() == Store().all()
    (kept / "lines").write_text("nonsense\n")
    assert main(["store", "import", "lines"]) == 2
    assert "line 1" in capsys.readouterr().err


def test_the_command_prunes_and_says_where_the_store_is(kept, capsys):
    assert main(["store", "prune"]) == 2
    assert "say what to remove" in capsys.readouterr().err
    assert main(["store", "prune", "--older-than", "30"]) == 0
    assert capsys.readouterr().err == "1 measurement removed, 1 kept\n"
    assert main(["store", "path"]) == 0
    assert capsys.readouterr().out == f"{kept / 'store.sqlite'}\n"
    with pytest.raises(SystemExit):
        main(["store", "prune", "--older-than", "-1"])


def test_an_empty_store_is_listed_as_such(kept, capsys):
    assert main(["store", "list", "--store", ":memory:"]) == 0
    assert "0 measurements" in capsys.readouterr().out


def test_the_file_of_another_program_is_set_aside_by_the_command_in_one_line(kept, capsys):
    foreign_database(kept / "theirs")
    assert main(["store", "list", "--store", "theirs"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("archcost: the store of measurements theirs cannot be used")
    assert err.count("\n") == 1
