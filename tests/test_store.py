import os

import pytest

from tfcompress import store


def test_a_step_is_found_only_when_it_was_finished(tmp_path):
    steps = store.Store(tmp_path)
    with pytest.raises(RuntimeError):
        with steps.make("ab12") as work:
            store.write_json(work / "step.json", {})
            raise RuntimeError
    assert steps.find("ab12") is None
    with steps.make("ab12") as work:
        (work / "file").write_text("x")
        store.write_json(work / "step.json", {"n": 1})
    assert (steps.find("ab12") / "file").read_text() == "x"
    assert [p.name for p in (tmp_path / "ab").iterdir()] == ["ab12"]


def test_two_runs_making_the_same_step_both_succeed(tmp_path):
    steps = store.Store(tmp_path)
    with steps.make("ab12") as slow:
        store.write_json(slow / "step.json", {"by": "slow"})
        with steps.make("ab12") as quick:
            store.write_json(quick / "step.json", {"by": "quick"})
    assert store.read_json(steps.find("ab12") / "step.json") == {"by": "quick"}


def test_pruning_drops_the_least_recently_used(tmp_path):
    steps = store.Store(tmp_path)
    for i, key in enumerate(("aa1", "bb2", "cc3")):
        with steps.make(key) as work:
            (work / "data").write_bytes(bytes(1000))
            store.write_json(work / "step.json", {})
        os.utime(steps.root / key[:2] / key, (i, i))
    os.utime(steps.root / "aa" / "aa1", (9, 9))
    steps.prune(limit=2500)
    assert [key for key in ("aa1", "bb2", "cc3") if steps.find(key)] == ["aa1", "cc3"]


def test_a_folders_digest_changes_with_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = store.file_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = store.file_digest(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, store.file_digest(tmp_path)}) == 3


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    store.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        store.write_json(path, {"a": object()})
    assert store.read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]
