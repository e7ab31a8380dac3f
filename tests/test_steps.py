from dataclasses import replace

from tfcompress.steps import Options, Steps


def test_a_runs_key_follows_the_contents_of_its_files_not_their_names(tmp_path):
    model, labels = tmp_path / "m.keras", tmp_path / "labels.txt"
    model.write_bytes(b"1")
    labels.write_text("cat")
    options = Options(model=str(model), labels=str(labels))

    def key(told=options):
        return Steps(told, [], lambda *_: None, "cpu").key

    first = key()
    assert key() == first
    assert key(replace(options, output="elsewhere", command="other words")) == first
    labels.write_text("dog")
    second = key()
    model.write_bytes(b"2")
    assert len({first, second, key()}) == 3
