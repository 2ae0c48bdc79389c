"""The image's environment: which lock it has, and what slim.py takes from it.

The build runs `slim.py check` on the result. Here the rules meet the environment of the tests, so that a new release of
a package fails before an image is built.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[5]
CODE = ROOT / "orchestration" / "dagster"
SLIM = CODE / "image" / "slim.py"


def _slim() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slim", SLIM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["slim"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


slim = _slim()


def _lock(name: str) -> set[tuple[str, str]]:
    """Distributions and their versions, on whatever platform."""
    return set(re.findall(r"^([\w.-]+)==([^ ;\\]+)", (CODE / name).read_text(), re.M))


def _names(lock: str) -> set[str]:
    return {distribution for distribution, _ in _lock(lock)}


@pytest.mark.parametrize(
    "distribution", ["dagster-webserver", "dagster-graphql", "dagster-dg-cli", "uvicorn", "setuptools"]
)
def test_the_image_has_no_user_interface_and_no_build_tool(distribution: str) -> None:
    assert distribution not in _names("requirements.lock")
    assert distribution in _names("requirements-local.lock"), "a developer's machine and compose have it"


def test_each_lock_extends_the_one_before_it_with_the_same_versions() -> None:
    image, local, dev = (_lock(f"requirements{name}.lock") for name in ("", "-local", "-dev"))
    assert len(image) > 100
    assert image < local < dev
    assert _lock("requirements-build.lock") <= local


@pytest.mark.parametrize("name", ["", "-local", "-dev", "-build", "-uv"])
def test_a_lock_has_a_hash_for_each_distribution_and_no_address(name: str) -> None:
    text = (CODE / f"requirements{name}.lock").read_text()
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.M)[1:]
    assert entries
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in text


def test_compose_builds_the_image_with_the_webserver() -> None:
    services = yaml.safe_load((ROOT / "infrastructure" / "local" / "compose.yaml").read_text())["services"]
    [build] = [service["build"] for service in services.values() if "build" in service]
    assert "dagster-webserver" in _names(build["args"]["REQUIREMENTS"])
    dockerfile = (CODE / "Dockerfile").read_text()
    [default] = re.findall(r"^ARG REQUIREMENTS=(\S+)$", dockerfile, re.M)
    assert default == "requirements.lock"


def test_the_dependencies_are_a_layer_that_our_code_does_not_change() -> None:
    dockerfile = (CODE / "Dockerfile").read_text()
    stages = re.split(r"^(?=FROM )", dockerfile, flags=re.M)[1:]
    [dependencies] = [stage for stage in stages if " AS dependencies" in stage.splitlines()[0]]
    copied = re.findall(r"^COPY (.*)$", dependencies, re.M)
    assert copied == ["orchestration/dagster/${REQUIREMENTS} orchestration/dagster/image/slim.py ./"]
    assert "--date=@0" in dependencies, "its files have the date of the build"
    assert re.findall(r"^COPY (--from=.*)$", stages[-1], re.M) == [
        "--from=dependencies /opt/venv /opt/venv",
        "--from=build /opt/lakehouse /opt/lakehouse",
    ]


@pytest.mark.parametrize("rule", slim.RULES, ids=lambda rule: f"{rule.distribution}: {rule.reason[:20]}")
def test_every_rule_finds_what_it_removes(rule: object) -> None:
    assert slim.installed(rule.distribution)  # type: ignore[attr-defined]
    assert slim.matches(rule, slim.SITE)


def test_a_rule_that_matches_nothing_is_named(tmp_path: Path) -> None:
    rule = slim.Rule("pyarrow", ("pyarrow/elsewhere",), "moved")
    with pytest.raises(slim.SlimError, match=r"pyarrow: pyarrow/elsewhere matches nothing in .*slim\.py"):
        slim.matches(rule, tmp_path)


def test_a_rule_removes_what_it_names_and_keeps_what_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pyarrow/a.dat", "pyarrow/en.dat", "pyarrow/tests/x.py", "pyarrow/tests/tests/y.py", "other/a.dat"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    rules = (
        slim.Rule("pyarrow", ("pyarrow/*.dat", "pyarrow/**/tests"), "for the test", keep=("pyarrow/en.dat",)),
        slim.Rule("a-distribution-that-is-not-installed", ("other/*",), "not here"),
    )
    monkeypatch.setattr(slim, "RULES", rules)
    assert slim.remove(tmp_path) == 15
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["other/a.dat", "pyarrow/en.dat"]
    assert "pyarrow: for the test" in capsys.readouterr().out


def test_a_module_without_bytecode_and_bytecode_without_a_module_are_found(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("")
    with pytest.raises(slim.SlimError, match=r"without bytecode: .*module\.py"):
        slim.check_bytecode(tmp_path)
    cache = Path(importlib.util.cache_from_source(str(tmp_path / "module.py")))
    cache.parent.mkdir()
    cache.write_bytes(b"")
    slim.check_bytecode(tmp_path)
    (cache.parent / "gone.cpython-311.pyc").write_bytes(b"")
    with pytest.raises(slim.SlimError, match=r"Bytecode without a module: .*gone"):
        slim.check_bytecode(tmp_path)


def test_a_shared_library_that_needs_a_removed_one_is_found(tmp_path: Path) -> None:
    (tmp_path / "broken.so.1").write_bytes(b"\x7fELF and no more")
    with pytest.raises(slim.SlimError, match=r"does not load: .*broken"):
        slim.check_libraries(tmp_path)


#: Refuses to import, and to read a locale of, what the rules remove; then checks as the image's build does.
WITHOUT = """
import sys
sys.path.insert(0, sys.argv[1])
import slim
gone = {path for rule in slim.RULES for path in slim.matches(rule, slim.SITE)}
modules = [path for path in gone if path.is_dir() or path.suffix in (".py", ".so")]
names = {".".join(path.relative_to(slim.SITE).with_suffix("").parts).partition(".cpython")[0] for path in modules}
class Refuse:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if any(name == other or name.startswith(other + ".") for other in names):
            raise ImportError(f"{name} is not in the image")
sys.meta_path.insert(0, Refuse)
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
slim.check_imports()
slim.check_use()
used = [path for path in map(str, gone) if any(name == path or name.startswith(path + "/") for name in opened)]
assert not used, used
print("refused", len(names))
"""


def test_what_the_image_runs_on_uses_nothing_that_the_rules_remove() -> None:
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("LAKEHOUSE_", "DAGSTER_", "LC_", "LANG"))}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(SLIM.parent)],
        env=bare | {"LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 10
