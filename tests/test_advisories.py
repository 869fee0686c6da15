"""`make advisories`: what it makes of what pip-audit says."""

import subprocess
from datetime import date

import pytest

from infra import advisories
from infra.advisories import CANARY, LOCKS, NOTHING_KNOWN, ask, report

TODAY = date(2026, 11, 23)
KNOWN = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.0"]}


def source(locks=(), *, canary=({"id": "C", "aliases": [], "fix_versions": []},), skipped=""):
    def asked(name, path):
        if path.read_text().strip() == CANARY:
            answer = {"name": "jinja2", "skip_reason": skipped} if skipped else {"name": "jinja2", "vulns": list(canary)}
            return {"dependencies": [answer]}
        return {"dependencies": [{"name": "a", "version": "1.0", "vulns": list(locks)}, {"name": "b", "skip_reason": "x"}]}

    return asked


@pytest.fixture
def locks(tmp_path):
    paths = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for path in paths:
        path.write_text("a==1.0\n")
    return paths


def accepted(**changes):
    return [{"id": "CVE-1", "package": "a", "because": "never called", "until": date(2026, 12, 31)} | changes]


def test_an_advisory_fails_until_it_is_accepted_and_again_when_that_has_run_out(locks):
    code, lines = report(source([KNOWN]), locks, [], TODAY)
    assert code == 1
    assert lines[0] == "a 1.0: PYSEC-1; fixed in 2.0"
    assert lines[-1] == "advisories: 1 on what 2 locks pin, 1 of them not accepted (pypi)"
    assert "1 packages that pypi does not know were not checked: b" in lines
    code, lines = report(source([KNOWN]), locks, accepted(), TODAY)
    assert (code, lines[0]) == (0, "a 1.0: PYSEC-1; accepted: never called")
    for other in (accepted(until=date(2026, 11, 22)), accepted(package="c"), accepted(id="CVE-2")):
        assert report(source([KNOWN]), locks, other, TODAY)[0] == 1
    assert "a: CVE-1 is accepted, and found no more" in report(source(), locks, accepted(), TODAY)[1]


def test_a_source_that_knows_nothing_of_a_known_case_is_none(locks):
    """pip-audit would say that no vulnerabilities are known."""
    for silent in (source(canary=()), source(skipped="Dependency not found on PyPI")):
        code, lines = report(silent, locks, [], TODAY)
        assert code == NOTHING_KNOWN
        assert "nothing is known of the locks" in lines[0]
    assert any("Dependency not found on PyPI" in line for line in lines)


def test_what_pip_audit_cannot_say_is_no_answer(locks, monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nConnectionError: no such host\n")

    monkeypatch.setattr(advisories.subprocess, "run", run)
    with pytest.raises(OSError, match="no such host"):
        ask("osv", locks[0])
    assert report(ask, locks, [], TODAY)[0] == NOTHING_KNOWN


def test_every_lock_is_asked_about():
    names = {path.name for path in LOCKS}
    assert {"run.txt", "dev.txt", "stack.txt", "gpu.txt", "torch.txt", "workloads.txt", "requirements.txt"} <= names
    assert all(path.is_file() for path in LOCKS)
