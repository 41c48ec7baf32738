"""deploy/compose.yaml and deploy/kubernetes by the rules of Compose and of Kubernetes, not by ours."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource

DEPLOY = Path(__file__).parents[2] / "deploy"
#: A package of the schemas, read as an archive: it would unpack to 17,000 files.
SCHEMAS = "kubernetes-validate==1.37.0"
#: The oldest that people run, and the newest that the package knows.
VERSIONS = ["1.27", "1.37"]


def composed(text, cwd):
    (cwd / "compose.yaml").write_text(text)
    done = subprocess.run(
        ["docker-compose", "config"], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def test_compose_takes_the_file(tmp_path):
    code, shown, said = composed((DEPLOY / "compose.yaml").read_text(), tmp_path)

    assert code == 0, said
    assert yaml.safe_load(shown)["services"]["redisrepl"]["environment"]["REDISREPL_NS"] == "site1:"


def test_compose_would_refuse_a_wrong_one(tmp_path):
    wrong = (DEPLOY / "compose.yaml").read_text().replace("cap_drop:", "cap_dropped:")

    code, _, said = composed(wrong, tmp_path)

    assert code != 0
    assert "cap_dropped" in said


class Schemas:
    """The JSON schemas of one version of Kubernetes, in which an unknown field is an error."""

    def __init__(self, archive, version):
        self._archive, self._place = archive, f"kubernetes_validate/kubernetes-json-schema/v{version}.0-local-strict"
        definitions = Resource.from_contents(self._read("_definitions.json"))
        self._registry = Registry().with_resource(definitions.id() or "_definitions.json", definitions)

    def _read(self, name):
        return json.loads(self._archive.read(f"{self._place}/{name}"))

    def errors(self, document):
        api = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", document["apiVersion"])
        schema = self._read(f"{document['kind'].lower()}-{api}.json")
        checked = jsonschema.Draft202012Validator(schema, registry=self._registry)
        return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in checked.iter_errors(document)]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    place = tmp_path_factory.mktemp("schemas")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*pip, "--dest", place, SCHEMAS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(place.glob("*.whl"))) as archive:
        yield archive


@pytest.fixture(scope="module", params=VERSIONS)
def schemas(request, archive):
    return Schemas(archive, request.param)


@pytest.mark.parametrize("name", ["statefulset.yaml", "service.yaml"])
def test_kubernetes_takes_each_resource(schemas, name):
    assert schemas.errors(yaml.safe_load((DEPLOY / "kubernetes" / name).read_text())) == []


def test_kubernetes_would_refuse_a_wrong_one(schemas):
    stateful = yaml.safe_load((DEPLOY / "kubernetes" / "statefulset.yaml").read_text())
    stateful["spec"]["replica"] = stateful["spec"].pop("replicas")
    stateful["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = "30 s"

    second, first = sorted(schemas.errors(stateful))
    assert "'replica' was unexpected" in first
    assert "terminationGracePeriodSeconds" in second


def test_what_kustomize_makes_of_the_base_is_taken(archive):
    """The names of the ConfigMap meet too: kustomize gives it a suffix."""
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl here, which has kustomize in it")
    done = subprocess.run(
        ["kubectl", "kustomize", DEPLOY / "kubernetes"], capture_output=True, text=True, check=False, timeout=60
    )
    if "unknown field" in done.stderr:
        pytest.skip(f"the kustomize of this kubectl is older than `labels`: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))

    newest = Schemas(archive, VERSIONS[-1])
    assert sorted(document["kind"] for document in made) == ["ConfigMap", "Service", "StatefulSet"]
    assert [error for document in made for error in newest.errors(document)] == []
    (config,) = [document["metadata"]["name"] for document in made if document["kind"] == "ConfigMap"]
    assert f"name: {config}\n" in done.stdout.partition("envFrom:")[2]
