"""infrastructure/terraform: what can be checked without the providers, which come from a registry."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml
from jsonschema import Draft7Validator

ROOT = Path(__file__).parents[5]
FOLDER = ROOT / "infrastructure" / "terraform"
VALUES: dict[str, Any] = yaml.safe_load(
    (ROOT / "infrastructure" / "kubernetes" / "dagster" / "values.yaml").read_text()
)
CHART = ROOT / "charts" / "lakehouse-support"
SUPPORT: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
#: A reference begins with one of these; everything else with a dot is an attribute of a resource.
ROOTS = {"var", "local", "data", "each", "path"}
EXPRESSION = re.compile(r"(?<![\w.\"/-])(?:data\.)?[a-z]\w*\.\w+(?:\.\w+)?")
TOOL = shutil.which("tofu") or shutil.which("terraform")


def _unquoted(value: Any) -> Any:
    """Return parsed HCL as plain values: names and strings without quotes, and without the parser's own keys."""
    if isinstance(value, dict):
        return {_unquoted(key): _unquoted(item) for key, item in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    if isinstance(value, str) and value.startswith('"') and value.endswith('"'):
        return value[1:-1]
    return value


@cache
def _blocks(kind: str) -> dict[str, Any]:
    """Return all blocks of a kind, by their labels joined with a dot."""
    found: dict[str, Any] = {}
    for path in sorted(FOLDER.glob("*.tf")):
        with path.open() as file:
            parsed = _unquoted(hcl2.load(file))
        for block in parsed.get(kind, []):
            for label, body in block.items():
                if kind in ("resource", "data"):
                    found |= {f"{label}.{name}": inner for name, inner in body.items()}
                else:
                    found[label] = body
    return found


def _code() -> str:
    """Return the text of all files without comments and descriptions."""
    text = "\n".join(path.read_text() for path in sorted(FOLDER.glob("*.tf")))
    text = re.sub(r"(?m)(^|\s)#.*$", "", text)
    return re.sub(r"(?m)^\s*(description|error_message)\s*=.*$", "", text)


def _resolved(text: str) -> str:
    """Return a string with the defaults of the variables in it."""
    return re.sub(r"\$\{var\.(\w+)\}", lambda match: str(_blocks("variable")[match[1]]["default"]), text)


def test_every_variable_is_described_typed_and_used() -> None:
    variables = _blocks("variable")
    used = set(re.findall(r"\bvar\.(\w+)", re.sub(r"(?s)validation \{.*?\n  \}", "", _code())))
    assert len(variables) > 20
    assert used == set(variables)
    for name, variable in variables.items():
        assert variable["description"].endswith((".", ")")), name
        assert "type" in variable, name
        for validation in variable.get("validation", []):
            assert validation["error_message"].startswith(f"{name}: expected "), name
    unchecked = {name for name, variable in variables.items() if "validation" not in variable}
    assert unchecked == {"tags", "trino_service_account"} | {
        name for name, variable in variables.items() if variable["type"] == "bool"
    }


def test_every_reference_has_a_target() -> None:
    # Of a string, only the expressions in it.
    text = re.sub(r'"((?:[^"\\\n]|\\.)*)"', lambda found: " ".join(re.findall(r"\$\{(.*?)\}", found[1])), _code())
    targets = {f"data.{name}" for name in _blocks("data")} | set(_blocks("resource"))
    targets |= {f"var.{name}" for name in _blocks("variable")} | {f"local.{name}" for name in _blocks("locals")}
    loops = set(re.findall(r"\bfor ([\w, ]+) in\b", text))
    bound = {name.strip() for group in loops for name in group.split(",")} | {"each", "path", "rule", "statement"}
    references = {
        ".".join(parts[: 3 if parts[0] == "data" else 2]) for parts in _references(text) if parts[0] not in bound
    }
    assert {name for name in references if name.startswith("aws_db_instance.")}
    assert references - targets == set()
    # Nothing is declared in vain, either.
    unused = {f"data.{name}" for name in _blocks("data")} | {f"local.{name}" for name in _blocks("locals")}
    assert unused - references == set()


def _references(text: str) -> Iterator[list[str]]:
    for found in EXPRESSION.findall(text):
        parts = found.split(".")
        if parts[0] in ROOTS or re.match(r"(aws|helm)_", parts[0]):
            yield parts


def test_versions_are_pinned() -> None:
    [settings] = [_blocks("terraform")]
    assert settings["required_version"] == ">= 1.9, < 2.0"
    [providers] = settings["required_providers"]
    used = {name.split("_")[0] for name in (*_blocks("resource"), *_blocks("data"))}
    assert {name: provider["source"] for name, provider in providers.items()} == {
        name: f"hashicorp/{name}" for name in used
    }
    assert {provider["version"][:3] for provider in providers.values()} == {"~> "}
    lock = (ROOT / "orchestration" / "dagster" / "requirements.lock").read_text()
    assert f"\ndagster=={_blocks('variable')['dagster_chart_version']['default']} " in lock


def test_files_exist() -> None:
    named = re.findall(r"\$\{path\.module\}/([\w./-]+)", _code())
    assert len(named) == 2
    assert [name for name in named if not (FOLDER / name).exists()] == []
    readme = (FOLDER / "README.md").read_text()
    linked = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", readme) if not link.startswith("#")]
    assert [link for link in linked if not (FOLDER / link).exists()] == []
    assert [name for name in re.findall(r"^\| `(\w+\.tf)`", readme, re.MULTILINE) if not (FOLDER / name).exists()] == []


def test_roles_are_for_the_service_accounts_of_the_charts() -> None:
    release = _blocks("locals")["release"]
    accounts = [item for item in VALUES["extraManifests"] if item["kind"] == "ServiceAccount"]
    assert _blocks("locals")["service_accounts"] == {
        "runs": VALUES["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]["podSpecConfig"][
            "serviceAccountName"
        ],
        # As the official chart names it for a release that contains "dagster", and SETUP_GUIDE.md says.
        "code_server": f"{release}-dagster-user-deployments-user-deployments",
        "dagster": VALUES["serviceAccount"]["name"],
    }
    assert [account["metadata"]["name"] for account in accounts] == [SUPPORT["dagster"]["runs"]["serviceAccount"]]
    guide = (ROOT / "SETUP_GUIDE.md").read_text()
    assert [name for name in _blocks("locals")["service_accounts"].values() if f"`{name}`" not in guide] == []
    assert f"-n {_blocks('variable')['namespace']['default']} " in guide
    assert SUPPORT["dagster"]["release"] == release


def test_roles_have_the_least_privilege() -> None:
    roles = {**_blocks("locals")["roles"], **_blocks("locals")["trino"]}
    tables = {name for name, role in roles.items() if "local.tables" in str(role["write"])}
    assert tables == {"runs", "trino"}
    assert {name for name, role in roles.items() if role["delete"]} == tables
    assert roles["dagster"]["read"] == roles["dagster"]["write"] == "${local.logs}"
    actions = set(re.findall(r'"(s3:\w+|s3:\*)"', (FOLDER / "access.tf").read_text()))
    assert "s3:GetObject" in actions
    assert actions & {"s3:*", "s3:DeleteObjectVersion", "s3:PutBucketPolicy", "s3:DeleteBucket"} == set()
    resources = re.findall(r"resources = (.*)", (FOLDER / "access.tf").read_text())
    assert [line for line in resources if '"*"' in line] == []


def test_prefixes_are_those_of_the_values() -> None:
    logs = VALUES["computeLogManager"]["config"]["s3ComputeLogManager"]
    variables = _blocks("variable")
    assert variables["logs_prefix"]["default"] == f"{logs['prefix']}/"
    assert variables["logs_days"]["default"] == SUPPORT["upkeep"]["prune"]["olderThanDays"]
    stack = (ROOT / "infrastructure" / "local" / "compose" / "host-env.sh").read_text()
    assert f"/{variables['warehouse_prefix']['default'].rstrip('/')}\n" in stack


def test_nothing_in_the_warehouse_expires() -> None:
    configuration = _blocks("resource")["aws_s3_bucket_lifecycle_configuration.lakehouse"]
    warehouse = _blocks("variable")["warehouse_prefix"]["default"]
    rules = {rule["id"]: rule for rule in configuration["rule"]}
    [dynamic] = configuration["dynamic"]
    [rules["quarantine"]] = dynamic["rule"]["content"]
    expiring = {}
    for name, rule in rules.items():
        prefix = rule["filter"][0].get("prefix", "")
        days = [entry["days"] for entry in rule.get("expiration", []) if "days" in entry]
        if days:
            prefix = "${var.landing_prefix}" if prefix == "${rule.value}" else prefix  # as its validation demands
            expiring[name] = _resolved(prefix)
        assert set(rule) - {"id", "status", "filter"} <= {
            "expiration",
            "noncurrent_version_expiration",
            "abort_incomplete_multipart_upload",
        }
    assert set(expiring) == {"logs", "quarantine"}
    for prefix in expiring.values():
        assert prefix
        assert not warehouse.startswith(prefix)
        assert not prefix.startswith(warehouse)
    assert set(rules) == {"logs", "quarantine", "incomplete-uploads", "noncurrent-versions"}


def test_nothing_that_holds_data_can_be_destroyed() -> None:
    resources = _blocks("resource")
    holding = ("aws_s3_bucket.", "aws_db_instance.", "helm_release.")
    found = {name: body for name, body in resources.items() if name.startswith(holding)}
    assert len(found) == 4
    assert [name for name, body in found.items() if body["lifecycle"][0].get("prevent_destroy") is not True] == []
    database = resources["aws_db_instance.dagster"]
    expected = {"deletion_protection": True, "skip_final_snapshot": False, "delete_automated_backups": False}
    assert {key: database[key] for key in expected} == expected
    assert database["storage_encrypted"] is True
    assert database["publicly_accessible"] is False
    assert "force_destroy" not in _code()


def test_the_bucket_is_private() -> None:
    resources = _blocks("resource")
    block = dict(resources["aws_s3_bucket_public_access_block.lakehouse"])
    assert block.pop("bucket")
    assert block == dict.fromkeys(
        ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"), True
    )
    [statement] = _blocks("data")["aws_iam_policy_document.bucket"]["statement"]
    assert (statement["effect"], statement["actions"]) == ("Deny", ["s3:*"])
    [condition] = statement["condition"]
    assert (condition["variable"], condition["values"]) == ("aws:SecureTransport", ["false"])


def test_no_secret_is_written_down() -> None:
    database = _blocks("resource")["aws_db_instance.dagster"]
    assert database["manage_master_user_password"] is True
    assert "password" not in database
    for path in FOLDER.iterdir():
        text = path.read_text()
        assert re.findall(r"(?i)\b\w*(?:password|secret|token|access_key)\w*\s*=\s*\"", text) == [], path.name
        assert re.findall(r"AKIA[0-9A-Z]{16}|-----BEGIN", text) == [], path.name


def test_the_example_sets_every_required_variable() -> None:
    with (FOLDER / "terraform.tfvars.example").open() as file:
        given = _unquoted(hcl2.load(file))
    required = {name for name, variable in _blocks("variable").items() if "default" not in variable}
    assert set(given) == required | {"releases"}


# --- With Terraform or OpenTofu, which evaluate what needs no provider

ENVIRONMENT = {**os.environ, "TF_CLI_ARGS": "-no-color", "CHECKPOINT_DISABLE": "1"}
needs_tool = pytest.mark.skipif(TOOL is None, reason="neither tofu nor terraform is installed")


def _apply(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(FOLDER / "variables.tf", folder)
    shutil.copy(FOLDER / "terraform.tfvars.example", folder / "terraform.tfvars")
    command = [str(TOOL), "apply", "-auto-approve", "-input=false", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=ENVIRONMENT)


@needs_tool
def test_the_example_is_valid(tmp_path: Path) -> None:
    result = _apply(tmp_path)
    assert result.returncode == 0, result.stderr


@needs_tool
@pytest.mark.parametrize(
    "setting",
    [
        "warehouse_prefix=/warehouse/",
        "landing_prefix=warehouse/landing/",
        "logs_prefix=warehouse/",
        "logs_prefix=landing/logs/",
        'quarantine_prefixes=["warehouse/_quarantine/"]',
        'quarantine_prefixes=["landing/"]',
        "bucket=lake.house",
        "region=Frankfurt",
        "kms_key_arn=alias/lakehouse",
        "releases=support",
        "dagster_values_file=missing.yaml",
        'database_subnet_ids=["subnet-1", "subnet-1"]',
    ],
)
def test_invalid_values_are_refused_with_the_name_of_the_variable(tmp_path: Path, setting: str) -> None:
    result = _apply(tmp_path, f"-var={setting}")
    assert result.returncode != 0
    assert f"{setting.partition('=')[0]}: expected " in " ".join(result.stderr.replace("│", " ").split())


@needs_tool
@pytest.mark.parametrize("verify", ["true", "false"])
def test_the_charts_know_the_values(tmp_path: Path, verify: str) -> None:
    """The overrides of both charts, with resources replaced by what AWS would answer."""
    known = {
        r"aws_db_instance\.dagster\.address": '"database.example"',
        r"aws_db_instance\.dagster\.port": "5432",
        r"aws_db_instance\.dagster\.\w+": '"dagster"',
        r"aws_s3_bucket\.lakehouse\.id": "var.bucket",
        r"data\.aws_subnet\.\w+": '{ one = { cidr_block = "10.0.1.0/24" } }',
        r"data\.aws_prefix_list\.s3\.cidr_blocks": '["10.0.2.0/24"]',
        r"\$\{path\.module\}": FOLDER.as_posix(),
    }
    text = ""
    for name in ("main.tf", "releases.tf"):
        source = (FOLDER / name).read_text()
        text += source[source.index("locals {") : source.index("\n}\n", source.index("locals {")) + 3]
    for pattern, value in known.items():
        text = re.sub(pattern, lambda _, value=value: value, text)  # type: ignore[misc]
    for chart in ("dagster", "support"):
        text += f'\noutput "{chart}" {{ value = local.{chart}_overrides }}\n'
    (tmp_path / "values.tf").write_text(text)
    result = _apply(tmp_path, f"-var=verify_database_certificate={verify}")
    assert result.returncode == 0, result.stderr
    printed = subprocess.run(
        [str(TOOL), "output", "-json"], cwd=tmp_path, capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    values = {name: output["value"] for name, output in json.loads(printed.stdout).items()}
    assert _unknown(values["dagster"], VALUES) - {"postgresql.postgresqlParams.sslrootcert"} == set()
    assert values["dagster"]["computeLogManager"]["config"]["s3ComputeLogManager"]["prefix"] == "dagster/logs"
    schema = json.loads((CHART / "values.schema.json").read_text())
    support = _merged(SUPPORT, values["support"])
    assert [error.message for error in Draft7Validator(schema).iter_errors(support)] == []
    assert support["networkPolicies"]["egress"]["podIdentity"]["cidrs"] == ["169.254.170.23/32"]
    assert support["image"]["repository"] == "registry.example/lakehouse-analytics"


def _unknown(values: dict[str, Any], known: dict[str, Any], path: str = "") -> set[str]:
    """Return the keys of values that another file of values does not have."""
    found = {f"{path}{key}" for key in values.keys() - known.keys()}
    for key in values.keys() & known.keys():
        if isinstance(values[key], dict):
            found |= _unknown(values[key], known[key], f"{path}{key}.")
    return found


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return values as Helm merges two files of them."""
    both = {key: _merged(base[key], over[key]) for key in base.keys() & over.keys() if isinstance(over[key], dict)}
    return {**base, **over, **both}
