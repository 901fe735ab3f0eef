"""`make image-check`: the bill of materials of the image's Python packages, and their known vulnerabilities.

Writes out/image/sbom.cdx.json (CycloneDX) and out/image/audit.json (pip-audit). Fails if a package has a finding that
accepted-findings.txt does not name, and if a package was not checked: pip-audit itself reports success when the
vulnerability service knows none of the packages.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "service" / "requirements.txt"
ACCEPTED = Path(__file__).with_name("accepted-findings.txt")
BOM = ("--from", "cyclonedx-bom==7.5.0", "cyclonedx-py", "requirements", "--output-reproducible", "--output-file")
AUDIT = ("--from", "pip-audit==2.10.1", "pip-audit", "--require-hashes", "--disable-pip", "--progress-spinner", "off")


def accepted_findings(text: str) -> dict[str, str]:
    """Return the reason of each accepted finding: lines of an identifier and a reason.

    Raises:
        ValueError: a finding is accepted without a reason.
    """
    lines = [line.strip() for line in text.splitlines()]
    found = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    if bare := [name for name, _, reason in found if not reason.strip()]:
        raise ValueError(f"{bare[0]} in {ACCEPTED.name} has no reason: write one after the identifier")
    return {name: reason.strip() for name, _, reason in found}


def complaints(audit: dict[str, list[dict]], accepted: dict[str, str]) -> list[str]:
    """Return what is wrong according to pip-audit's JSON: findings that are not accepted, and unchecked packages."""
    packages = audit["dependencies"]
    problems = [
        f"{package['name']} {package['version']}: {finding['id']} ({', '.join(finding['fix_versions']) or 'no fix'})"
        for package in packages
        for finding in package.get("vulns", [])
        if accepted.keys().isdisjoint({finding["id"], *finding.get("aliases", [])})
    ]
    if skipped := [package for package in packages if "skip_reason" in package]:
        problems.append(f"{len(skipped)} of {len(packages)} packages were not checked: {skipped[0]['skip_reason']}")
    return problems if packages else ["pip-audit checked no package"]


def main() -> int:
    """Write both files and return the exit code."""
    uvx, out = Path(sys.executable).with_name("uvx"), ROOT / "out" / "image"
    out.mkdir(parents=True, exist_ok=True)
    bom, audit = out / "sbom.cdx.json", out / "audit.json"
    for path in (bom, audit):
        path.unlink(missing_ok=True)
    subprocess.run([uvx, "--quiet", *BOM, bom, REQUIREMENTS], check=True)
    command = [uvx, "--quiet", *AUDIT, "--format", "json", "--output", audit, "--requirement", REQUIREMENTS]
    done = subprocess.run(command, capture_output=True, text=True)  # 1: findings, or an error
    if audit.is_file() and audit.stat().st_size:
        problems = complaints(json.loads(audit.read_text()), accepted_findings(ACCEPTED.read_text()))
    else:
        problems = [f"pip-audit did not finish, nothing was checked: {done.stderr.strip().splitlines()[-1:]}"]
    for problem in problems:
        sys.stderr.write(f"FAILED: {problem}\n")
    print(json.dumps({"bom": str(bom), "audit": str(audit), "passed": not problems}))  # noqa: T201
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
