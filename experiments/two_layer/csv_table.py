"""Reads a CSV file of numbers with one column of class labels, and says exactly where it cannot be used."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from experiments.two_layer.bad_input import BadInput, require

Rows = list[tuple[int, list[str]]]
"""Each row with its line number in the file."""

MAX_CLASSES = 100


def read_csv(
    path: Path, label_column: str | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Features, labels, feature names and class names of a comma-separated file.

    A first row with text in any feature column is taken as names. The label column is the last one unless it
    is named; labels may be text or numbers, everything else must be finite numbers.

    Returns:
        float64[rows, features], int32[rows], the names of the features, the names of the classes (sorted).

    Raises:
        BadInput: naming the line and the column at fault.
    """
    rows = _rows(path)
    require(bool(rows), f"{path}: the file has no rows.")
    width = len(rows[0][1])
    require(width >= 2, f"{path}: one column only; features and a label are needed, separated by commas.")
    for line, fields in rows:
        found = len(fields)
        require(found == width, f"{path}: line {line} has {found} columns where the first has {width}.")
    names, rows = _split_header(rows, label_column)
    require(bool(rows), f"{path}: there are names but no points below them.")
    label_at = _label_position(path, names, label_column)
    feature_at = [column for column in range(width) if column != label_at]
    numbers = [[_number(path, line, names, fields, at) for at in feature_at] for line, fields in rows]
    features = np.array(numbers, np.float64)
    texts = [_present(path, line, names, fields, label_at) for line, fields in rows]
    class_names = tuple(sorted(set(texts), key=_label_order))
    require(
        len(class_names) <= MAX_CLASSES,
        f"{path}: the label column {names[label_at]!r} has {len(class_names)} different values; "
        f"at most {MAX_CLASSES} classes are possible. Name another with --label.",
    )
    position = {text: number for number, text in enumerate(class_names)}
    labels = np.array([position[text] for text in texts], np.int32)
    return features, labels, tuple(names[column] for column in feature_at), class_names


def _rows(path: Path) -> Rows:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            stripped = ((reader.line_num, [field.strip() for field in fields]) for fields in reader)
            return [(line, fields) for line, fields in stripped if fields not in ([], [""])]
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start}).") from error
    except csv.Error as error:
        raise BadInput(f"{path}: not a CSV file: {error}.") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}.") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _split_header(rows: Rows, label_column: str | None) -> tuple[list[str], Rows]:
    first = rows[0][1]
    # The last field may be a text label, so it does not tell; a gap does not make a row of names either.
    has_names = label_column in first or any(field and not _is_number(field) for field in first[:-1])
    if has_names:
        return [name or f"column {number}" for number, name in enumerate(first, 1)], rows[1:]
    return [f"column {number}" for number in range(1, len(first) + 1)], rows


def _label_position(path: Path, names: list[str], label_column: str | None) -> int:
    if label_column is None:
        return len(names) - 1
    require(label_column in names, f"{path}: no column {label_column!r}; there are {', '.join(names)}.")
    require(names.count(label_column) == 1, f"{path}: several columns are called {label_column!r}; rename all but one.")
    return names.index(label_column)


def _present(path: Path, line: int, names: list[str], fields: list[str], column: int) -> str:
    where = f"{path}: line {line}, column {names[column]!r}"
    require(fields[column] != "", f"{where}: there is a gap; fill it or drop the line.")
    return fields[column]


def _number(path: Path, line: int, names: list[str], fields: list[str], column: int) -> float:
    text = _present(path, line, names, fields, column)
    where = f"{path}: line {line}, column {names[column]!r}"
    require(_is_number(text), f"{where}: {text!r} is not a number.")
    number = float(text)
    require(math.isfinite(number), f"{where}: {text!r} is not a finite number.")
    return number


def _label_order(text: str) -> tuple[int, float, str]:
    # Numbers in numeric order (2 before 10), then text alphabetically.
    # NaN has no place among numbers: with it the order would hang on that of a set.
    is_ordered = _is_number(text) and not math.isnan(float(text))
    return (0, float(text), text) if is_ordered else (1, 0.0, text)
