import pytest

from l2o.training.config import MetaTrainConfig, read_config, read_yaml


def test_numbers_are_written_as_everywhere():
    assert read_yaml("lr: 3e-3", "x") == {"lr": 0.003}


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 1]\nb: *a",
        "a: !!python/object/apply:os.system ['true']",
        "a: !!bool maybe",
        "a: !!timestamp x",
        "a: !!int ''",
        "a: 2001-99-99",
        "a: " + "[" * 5000,
        "a: " + "9" * 5000,
        "? {a: b}\n: c",
        "a: \0",
    ],
    ids=range(10),
)
def test_what_is_no_plain_yaml_is_told(text):
    with pytest.raises(ValueError, match="x must be YAML"):
        read_yaml(text, "x")


def test_settings_of_megabytes_are_refused(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(ValueError, match="at most 1,048,576 bytes"):
        read_config(tmp_path / "config.yaml", MetaTrainConfig)
