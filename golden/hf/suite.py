"""golden/suite.json, the index of all golden cases. Several scripts write their part of it."""
import json
from pathlib import Path

GOLDEN = Path(__file__).resolve().parent.parent
SUITE = GOLDEN / "suite.json"


def read(path=SUITE):
    return json.loads(path.read_text())["cases"] if path.exists() else []


def update(cases, replaces, path=SUITE):
    """Replace every case for which replaces(name) holds by `cases`, keep the others, and sort by name."""
    kept = [c for c in read(path) if not replaces(c["name"])]
    cases = sorted(kept + cases, key=lambda c: c["name"])
    lines = ",\n".join("  " + json.dumps(c, ensure_ascii=False) for c in cases)
    path.write_text('{"suite": 1, "cases": [\n' + lines + "\n]}\n")
