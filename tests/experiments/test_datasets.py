"""The sets are what they say, and a file that cannot be used is refused with the place at fault."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.two_layer import datasets
from experiments.two_layer.bad_input import BadInput
from experiments.two_layer.csv_table import read_csv

GOOD = "width,height,kind\n1,2,leaf\n3,4.5,stem\n-5e-1,6,leaf\n7,8,stem\n"


@pytest.mark.parametrize("name", datasets.NAMES)
def test_every_set_is_standardised_split_and_complete(name):
    data = datasets.load(name, None, seed=3)
    classes = set(range(len(data.class_names)))
    assert set(data.train_labels.tolist()) == set(data.test_labels.tolist()) == classes
    share = len(data.test_labels) / (len(data.test_labels) + len(data.train_labels))
    assert abs(share - datasets.HELD_OUT_FRACTION) < 0.02
    assert data.train_features.dtype == data.test_features.dtype == np.float32
    varies = data.train_features.std(axis=0) > 0
    np.testing.assert_allclose(data.train_features.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(data.train_features[:, varies].std(axis=0), 1, atol=1e-4)
    np.testing.assert_allclose(
        data.standardise(data.restore(data.test_features)), data.test_features, rtol=1e-4, atol=1e-4
    )


def test_no_held_out_point_is_trained_on():
    data = datasets.load("xor", 200, seed=0)
    assert len({tuple(row) for row in (*data.train_features, *data.test_features)}) == 200


def test_the_seed_decides_everything():
    first, again, other = (datasets.load("circle", 100, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.train_features, again.train_features)
    assert not np.array_equal(first.train_features, other.train_features)


def test_points_chooses_that_many():
    data = datasets.load("digits", 300, seed=0)
    assert len(data.train_labels) + len(data.test_labels) == 300


@pytest.mark.parametrize(
    ("name", "points", "words"),
    [
        ("xorr", None, ["xorr", "Did you mean 'xor'", "spiral"]),
        ("nowhere.csv", None, ["nowhere.csv", "No such file"]),
        ("wine", 10_000, ["--points 10000", "178"]),
        ("wine", 4, ["class"]),
    ],
)
def test_unusable_requests_are_refused(name, points, words):
    with pytest.raises(BadInput) as refused:
        datasets.load(name, points, seed=0)
    for word in words:
        assert word in str(refused.value)


def test_csv_with_names(tmp_path):
    path = tmp_path / "plants.csv"
    path.write_text(GOOD)
    features, labels, names, classes = read_csv(path)
    assert names == ("width", "height") and classes == ("leaf", "stem")
    np.testing.assert_array_equal(features, [[1, 2], [3, 4.5], [-0.5, 6], [7, 8]])
    np.testing.assert_array_equal(labels, [0, 1, 0, 1])
    data = datasets.load(str(path), None, seed=0)
    assert data.name == "plants" and len(data.train_labels) == len(data.test_labels) == 2


def test_csv_without_names_and_labels_in_numeric_order(tmp_path):
    path = tmp_path / "bare.csv"
    path.write_text("\ufeff1,2,10\n3,4,2\n\n5,6,10\n", encoding="utf-8")
    features, labels, names, classes = read_csv(path)
    assert names == ("column 1", "column 2") and classes == ("2", "10")
    np.testing.assert_array_equal(labels, [1, 0, 1])
    np.testing.assert_array_equal(features, [[1, 2], [3, 4], [5, 6]])


def test_csv_label_column_by_name(tmp_path):
    path = tmp_path / "plants.csv"
    path.write_text("kind,width\nleaf,1\nstem,2\n")
    _features, labels, names, classes = read_csv(path, "kind")
    assert names == ("width",) and classes == ("leaf", "stem") and labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no rows"]),
        ("a,b,kind\n", ["no points"]),
        ("a,b,kind\n1,,x\n2,3,y\n", ["line 2", "'b'", "gap"]),
        ("a,b,kind\n1,2,x\n2,3,\n", ["line 3", "'kind'", "gap"]),
        ("a,b,kind\n1,2,x\n2,many,y\n", ["line 3", "'b'", "'many'", "not a number"]),
        ("a,b,kind\n1,2,x\n2,nan,y\n", ["line 3", "'b'", "not a finite number"]),
        ("a,b,kind\n1,2,x\n2,3\n", ["line 3", "2 columns", "3"]),
        ("a;b;kind\n1;2;x\n", ["one column", "commas"]),
        ("a,b,kind\n1,2,x\n3,4,x\n", ["every point", "'x'"]),
        ("a,b,kind\n1,2,x\n3,4,x\n5,6,y\n", ["'y'", "too few points (1)"]),
        ("a,kind\n" + "".join(f"{n},{n}\n" for n in range(150)), ["'kind'", "150", "--label"]),
        ("a,kind\n1e300,x\n2,x\n3,x\n-1e300,y\n1e300,y\n2,y\n", ["'a'", "too large"]),
    ],
)
def test_unusable_csv_says_where(tmp_path, text, words):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        datasets.load(str(path), None, seed=0)
    message = str(refused.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_csv_that_is_no_text_and_a_folder(tmp_path):
    binary = tmp_path / "picture.csv"
    binary.write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(BadInput, match="UTF-8"):
        read_csv(binary)
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    with pytest.raises(BadInput, match="cannot be read"):
        read_csv(folder)


def test_two_label_columns_of_one_name(tmp_path):
    path = tmp_path / "plants.csv"
    path.write_text("a,kind,kind\n1,2,x\n3,4,y\n")
    with pytest.raises(BadInput, match="several columns are called 'kind'"):
        read_csv(path, "kind")


def test_classes_called_nan_are_in_one_order(tmp_path):
    path = tmp_path / "plants.csv"
    path.write_text("a,kind\n" + "".join(f"{n},{kind}\n" for n, kind in enumerate(("nan", "10", "NaN", "2", "x"))))
    assert read_csv(path)[3] == ("2", "10", "NaN", "nan", "x")


def test_unknown_label_column_is_named(tmp_path):
    path = tmp_path / "plants.csv"
    path.write_text(GOOD)
    with pytest.raises(BadInput, match="no column 'color'; there are width, height, kind"):
        read_csv(path, "color")
