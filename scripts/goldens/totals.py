"""tests/data/params.csv: the parameters of every file in configs/models, from the real classes.

total_parameters: sum over named_parameters, a tied one once. active_parameters: what one token
uses, total - (experts - experts per token) * parameters of an expert * mixture layers; embedding,
head, routers and shared experts count in full.
"""

import csv
import json

import transformers
from golden_file import REPOSITORY
from hf import SAME_CLASSES, build

# A config has the one of its family.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def totals(config):
    model = build(config)
    total = sum(p.numel() for p in model.parameters())
    idle = 0
    for path, module in model.named_modules():
        if path.rpartition(".")[2] == "experts":
            count = next(config[key] for key in EXPERTS if key in config)
            stacked = next(module.parameters(recurse=False), None)
            experts = len(module) if stacked is None else len(stacked)
            if experts != count:
                raise ValueError(f"{path}: {experts} experts, the config says {count}")
            per_expert = sum(p.numel() for p in module.parameters()) // count
            idle += (count - config["num_experts_per_tok"]) * per_expert
    return total, total - idle


def main():
    rows = []
    for path in sorted((REPOSITORY / "configs" / "models").glob("*.json")):
        config = json.loads(path.read_text())
        source = f"transformers {transformers.__version__}"
        if config["model_type"] in SAME_CLASSES:
            source += f" ({SAME_CLASSES[config['model_type']]})"
        total, active = totals(config)
        rows.append((path.stem, total, active, source))
        print(*rows[-1], flush=True)
    with open(REPOSITORY / "tests" / "data" / "params.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("name", "total_parameters", "active_parameters", "source"))
        writer.writerows(rows)


if __name__ == "__main__":
    main()
