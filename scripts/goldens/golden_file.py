"""Writing of shape goldens: JSON with one parameter and one module per line, for readable diffs."""

import json
import math
import pathlib

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SHAPES = REPOSITORY / "tests" / "data" / "shapes"


def block(opening, lines, closing):
    """A JSON list or map whose elements stand on a line each."""
    if not lines:
        return opening + closing
    return opening + "\n" + ",\n".join("    " + line for line in lines) + "\n  " + closing


def entries(mapping):
    return [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in mapping.items()]


def write_golden(name, config, source, parameters, buffers, module_classes):
    """Writes tests/data/shapes/<name>.json.

    parameters, buffers: lists of (name, shape) in the model's order, a tied parameter once, under
    the embedding's name. module_classes: path -> class name for every module but the root.
    """
    parameters = [[path, list(shape)] for path, shape in parameters]
    buffers = [[path, list(shape)] for path, shape in buffers]
    if len({path for path, _ in parameters + buffers}) != len(parameters) + len(buffers):
        raise ValueError(f"{name}: a parameter or buffer occurs twice")
    total = sum(math.prod(shape) for _, shape in parameters)
    members = {
        "config": block("{", entries(config), "}"),
        "transformers": json.dumps(source),
        "total": json.dumps(total),
        "parameters": block("[", [json.dumps(p) for p in parameters], "]"),
        "buffers": block("[", [json.dumps(b) for b in buffers], "]"),
        "module_classes": block("{", entries(module_classes), "}"),
    }
    text = "{\n" + ",\n".join(f'  "{key}": {value}' for key, value in members.items()) + "\n}\n"
    SHAPES.mkdir(parents=True, exist_ok=True)
    (SHAPES / f"{name}.json").write_text(text)
    print(f"{name}: {len(parameters)} parameters, {len(buffers)} buffers, total {total}")
