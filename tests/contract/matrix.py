"""The matrix objective x check, printed after a run of the contract suite."""

import re

# Why a check has nothing to say of a case, or does not hold in full.
EXEMPT = {
    "base_leaves": "only a wrapper has a base",
    "invalid_rows": "the toy queue takes the keys of all rows (training batches are full): extras are left out there",
}
NODE = re.compile(r"contract/test_suite\.py::test_(\w+)\[(.+?)\]")
MARKS = {"passed": "ok", "failed": "FAIL", "error": "FAIL", "skipped": "skip"}


def print_matrix(reporter) -> None:
    """A row per case, a column per check; checks with several meshes count their passes. Nothing without contract tests."""
    cells: dict[tuple[str, str], list[str]] = {}
    for outcome, mark in MARKS.items():
        for report in reporter.stats.get(outcome, []):
            found = NODE.search(report.nodeid)
            if found and (report.when == "call" or outcome != "passed"):
                check, case = found.groups()
                case = re.sub(r"-(one-device-4|data-8|fsdp-4-tensor-2|fsdp-2-tensor-2-context-2)$", "", case)
                cells.setdefault((case, check), []).append(mark)
    if not cells:
        return
    checks = sorted({check for _, check in cells})
    cases = sorted({case for case, _ in cells})
    reporter.section("contract matrix")
    for number, check in enumerate(checks, 1):
        reporter.write_line(f"  ({number}) {check}")
    reporter.write_line(" " * 34 + "".join(f"({number})".rjust(7) for number in range(1, len(checks) + 1)))
    blanks = 0
    for case in cases:
        row = (cells.get((case, check), []) for check in checks)
        shown = ["" if not marks else "FAIL" if "FAIL" in marks else f"{marks[0]} {len(marks)}" for marks in row]
        blanks += sum(not mark and check not in EXEMPT for mark, check in zip(shown, checks, strict=True))
        reporter.write_line(f"{case:<34}" + "".join(mark.rjust(7) for mark in shown))
    for check in filter(EXEMPT.get, checks):
        reporter.write_line(f"  {check}: {EXEMPT[check]}")
    reporter.write_line(f"  blanks without a reason: {blanks}")
