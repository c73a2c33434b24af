#!/usr/bin/env python3
"""The rule of generated weights: C++ and the numpy of scripts/goldens/weights.py give the same.

check_weights.py TCAST_TESTS
"""

import pathlib
import subprocess
import sys

try:
    import numpy as np
except ImportError:
    print("numpy is not installed")
    sys.exit(77)  # skipped

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "scripts/goldens"))
from weights import role, values  # noqa: E402

printed = subprocess.run(
    [sys.argv[1], "--no-skip", "--test-case=print generated values"],
    check=True,
    capture_output=True,
    text=True,
).stdout
lines = [line.split() for line in printed.splitlines() if line.startswith("values ")]
assert len(lines) >= 7, printed
for _, path, size, *numbers in lines:
    shape = tuple(int(dim) for dim in size.split("x"))
    expected = values(path, shape, *role(path, shape, "llama"))
    found = np.array([float.fromhex(number) for number in numbers], np.float32).reshape(shape)
    assert np.array_equal(found, expected), f"{path}: {found} instead of {expected}"
print(f"{len(lines)} parameters are equal")
