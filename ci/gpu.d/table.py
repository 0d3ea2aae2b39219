"""table.py STAGE JSON MARKDOWN: adds the summary to the lines that a stage of ci/gpu wrote and makes a table of them. Ends
with the exit code of the stage: 0 good, 1 something failed, 77 skipped as there is no device."""
import json
import sys
from pathlib import Path


def number(v, digits=4):
    return "–" if v is None else f"{v:.{digits}g}"


def percent(v):
    return "–" if v is None else f"{100 * v:.1f} %"


def peers_of(f):
    return "; ".join(f"{k}: {number(v) if isinstance(v, (int, float)) else 'n/a (' + str(v) + ')'}" for k, v in
                     (f.get("peers") or {}).items()) or "–"


def asked(f):
    goal = f.get("goal")
    if goal is None:
        return "–"
    text = f"≤ {goal} ms" if goal > 1 or "decode" in f["bench"] else f"≥ {100 * goal:.0f} % of the product"
    return text + (": reached" if f.get("reached") else ": not reached")


def tables(stage, lines, verdict):
    machine = next((l for l in lines if l.get("machine")), {})
    figures = [l for l in lines if "bench" in l]
    checks = [l for l in lines if "check" in l]
    out = [f"# ci/gpu {stage}: {verdict}", "",
           f"{machine.get('date', '')}, commit {machine.get('commit', '')}, {machine.get('device', '')}, "
           f"{machine.get('nvcc', '')}, kernel {machine.get('kernel', '')}", ""]
    if figures:
        out += ["| figure | value | floor or limit | share | of the product | target | peers | times faster |",
                "|---|---|---|---|---|---|---|---|"]
        for f in figures:
            value = f.get("note") if f.get("value") is None else f"{number(f['value'])} {f['unit']}"
            if f.get("spread") is not None:
                value += f" ± {50 * f['spread']:.1f} %"
            out.append(f"| {f['bench']} | {value} | {number(f.get('limit'))} | {percent(f.get('share'))} | "
                       f"{percent(f.get('of_product'))} | {asked(f)} | {peers_of(f)} | {number(f.get('ratio'), 3)} |")
        out.append("")
    if checks:
        out += ["| check | verdict | s | note |", "|---|---|---|---|"]
        out += [f"| {c['check']} | {c['verdict']} | {c['seconds']} | {c['note'].replace('|', '/')} |" for c in checks]
        out.append("")
    return "\n".join(out)


def main(stage, path, markdown):
    lines = [json.loads(l) for l in Path(path).read_text(encoding="utf-8").splitlines()]
    verdicts = [l["verdict"] for l in lines if "check" in l]
    count = {v: verdicts.count(v) for v in ("PASS", "FAIL", "SKIPPED", "n/a")}
    figures = [l for l in lines if "bench" in l]
    measured = sum(f.get("value") is not None for f in figures)
    no_device = any(l.get("check") == "device" and l["verdict"] == "SKIPPED" for l in lines)
    if count["FAIL"]:
        verdict, code = "FAIL", 1
    elif no_device:
        verdict, code = "SKIPPED", 77
    elif count["PASS"] or measured:
        verdict, code = "PASS", 0
    else:
        verdict, code = "SKIPPED", 0
    summary = {"summary": True, "stage": stage, "verdict": verdict, "checks": count, "figures": measured,
               "not_measured": len(figures) - measured, "reached": sum(bool(f.get("reached")) for f in figures),
               "asked": sum("goal" in f for f in figures)}
    with open(path, "a", encoding="utf-8") as f:
        f.write(json.dumps(summary) + "\n")
    Path(markdown).write_text(tables(stage, lines, verdict), encoding="utf-8")
    print(f"ci/gpu {stage}: {verdict}: {count['PASS']} passed, {count['FAIL']} failed, {count['SKIPPED']} skipped, "
          f"{count['n/a']} n/a; {measured} figures measured, {summary['not_measured']} not")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
