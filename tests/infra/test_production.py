"""Production runs what is locked and tested; checked without a container engine."""

import fnmatch
import functools
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema import Draft202012Validator
from kubernetes import client as k8s
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from typer.main import get_command

from provenance.core.errors import SettingsError
from provenance.core.settings import CHECKOUT
from tasks.cli import app
from tasks.settings import load

INFRA = CHECKOUT / "infra"
COMPOSE_TEXT = (INFRA / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
VALUES = yaml.safe_load((INFRA / "helm/airflow-values.yaml").read_text())
DASK = list(yaml.safe_load_all((INFRA / "helm/dask-cluster.yaml").read_text()))
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)(:[?-])([^}]*)\}")
IMAGES = {"provenance-airflow": "Containerfile.airflow", "provenance-worker": "Containerfile.worker"}


def _exists(path: str) -> bool:
    return (CHECKOUT / path).exists()


def _lock(name: str) -> dict[str, str]:
    text = (INFRA / f"requirements/{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, flags=re.MULTILINE))


def _containers():
    cluster = DASK[0]["spec"]
    for part in ("scheduler", "worker"):
        for container in cluster[part]["spec"]["containers"]:
            yield f"dask-{part}", container


def _containerfile(name: str) -> str:
    return (INFRA / "images" / name).read_text().replace("\\\n", " ")


# --- images ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGES.values())
def test_images_install_from_locks_with_hashes_and_run_as_nobody_special(name):
    text = _containerfile(name)
    installs = re.findall(r"(?:pip|uv pip) install [^&\n]*", text)
    assert installs
    ours = "--no-deps --no-build-isolation --editable ."
    for install in installs:
        assert "--require-hashes" in install or install.split("install ")[1].strip() == ours
        assert "--no-deps" in install or "uv.txt" in install, "a lock holds no torch, and whoever asks for it would get another"
    for lock in re.findall(r"infra/requirements/(\S+\.txt)", text):
        assert "--hash=sha256:" in (INFRA / "requirements" / lock).read_text()
    stages = re.split(r"(?m)^FROM ", text)[1:]
    final = [stage for stage in stages if "CMD" in stage]
    assert final
    for stage in final:
        assert re.search(r"(?m)^USER 50000:0$", stage)
    assert not re.search(r"(?im)^(ARG|ENV) .*(password|secret|token|_key)", text)


def test_make_installs_what_locks_say_and_no_more():
    makefile = (CHECKOUT / "Makefile").read_text()
    variables = dict(re.findall(r"(?m)^(\w+) :?= (.*)$", makefile))
    assert "--no-deps" in variables["UV"]
    assert variables["LOCKED"] == "$(UV) --require-hashes"
    installs = re.findall(r"\S*(?:pip install|\$\((?:UV|LOCKED)\))[^&;\n]*-r [^&;\n]*", makefile)
    assert len(installs) >= 10
    for install in installs:
        assert "$(LOCKED)" in install or "--require-hashes" in install, install
        assert any(word in install for word in ("$(LOCKED)", "--no-deps", "uv.txt", "advisories.txt")), install


@pytest.mark.parametrize("name", IMAGES.values())
def test_what_an_image_copies_is_there_and_not_ignored(name):
    patterns = [line for line in (CHECKOUT / ".containerignore").read_text().splitlines() if line and not line.startswith("#")]
    for words in re.findall(r"(?m)^COPY (?!--from)(.*)$", _containerfile(name)):
        for source in words.split()[:-1]:
            assert (CHECKOUT / source).exists(), source
            kept = source == "." or any(source == p[1:] or source.startswith(f"{p[1:]}/") for p in patterns if p[0] == "!")
            assert kept, source
            assert not any(fnmatch.fnmatch(source, pattern) for pattern in patterns if pattern[0] not in "!*")


def test_nothing_of_a_checkout_s_own_gets_into_an_image():
    lines = (CHECKOUT / ".containerignore").read_text().splitlines()
    assert lines[1] == "*", "all is left out but what is named"
    assert {line[1:] for line in lines if line.startswith("!")} == {
        "dags", "docs", "infra", "provenance", "tasks", "pyproject.toml", "LICENSE",
        "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md",  # the page serves documents
    }  # fmt: skip
    assert (CHECKOUT / ".dockerignore").resolve() == CHECKOUT / ".containerignore"


def test_the_locks_of_images_are_those_of_the_machine_and_little_more():
    stack, gpu = _lock("stack"), _lock("gpu")
    airflow, worker = _lock("image-airflow"), _lock("image-worker")
    assert {name: airflow.get(name) for name in stack} == stack
    assert {name: worker.get(name) for name in gpu} == gpu
    assert "apache-airflow-providers-amazon" in airflow.keys() - stack.keys()
    assert "rmm-cu13" in worker.keys() - gpu.keys()


def test_versions_are_those_of_the_locks():
    locks = {name: _lock(name) for name in ("run", "image-airflow", "image-worker")}
    for package in ("dask", "distributed", "apache-airflow", "polars", "s3fs", "numpy"):
        assert len({lock[package] for lock in locks.values()}) == 1, package
    assert VALUES["airflowVersion"] == locks["image-airflow"]["apache-airflow"]
    python = re.search(r">=(3\.\d+)", PROJECT["requires-python"])[1]
    worker = _containerfile("Containerfile.worker")
    for text in (worker, _containerfile("Containerfile.airflow")):
        assert set(re.findall(r"library/python:([\d.]+)-", text)) == {python}
    assert f"dnf install -y python{python}" in worker
    cuda = set(re.findall(r"nvidia/cuda:(\d+\.\d+)\.", worker))
    runtime = locks["image-worker"]["nvidia-cuda-runtime"]
    assert cuda == {".".join(runtime.split(".")[:2])}
    assert locks["image-worker"]["cupy-cuda13x"], f"CUDA {cuda}"
    assert locks["image-worker"]["rmm-cu13"].rsplit(".", 1)[0] == locks["image-worker"]["dask-cuda"].rsplit(".", 1)[0]


def test_images_have_the_project_s_version():
    named = [service["image"] for service in COMPOSE["services"].values() if service["image"].startswith("provenance-")]
    named += [container["image"] for _, container in _containers()]
    named += [f"{VALUES['defaultAirflowRepository']}:{VALUES['defaultAirflowTag']}"]
    named += ["{repository}:{tag}".format(**VALUES["images"]["airflow"])]
    for image in named:
        name, tag = image.rsplit("/", 1)[-1].split(":", 1)
        assert name in IMAGES, image
        version, _, target = tag.partition("-")
        assert version == PROJECT["version"]
        if target:
            target = VARIABLE.sub(lambda found: found[3], target)
            assert f" AS {target}\n" in _containerfile(IMAGES[name])


# --- compose -----------------------------------------------------------------------------------------------------------------


def test_compose_is_valid():
    schema = get_builtin_schema("vendor.compose-spec")
    Draft202012Validator.check_schema(schema)
    assert [error.message for error in Draft202012Validator(schema).iter_errors(COMPOSE)] == []
    wrong = {**COMPOSE, "services": {"x": {"image": "y", "restrat": "no"}}}
    assert any("restrat" in error.message for error in Draft202012Validator(schema).iter_errors(wrong)), "it sees what is wrong"


def test_services_wait_for_services_that_are_there():
    services = COMPOSE["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, name
            assert "profiles" not in services[other], f"{name} waits for {other}, which may not run"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for the health of {other}"
            if how["condition"] == "service_completed_successfully":
                assert services[other]["restart"] == "no"
        for network in service.get("networks", []):
            assert network in COMPOSE["networks"]
        for volume in service.get("volumes", []):
            source = VARIABLE.sub("VARIABLE", volume).split(":")[0]
            assert source.startswith(("./", "VARIABLE")) or source in COMPOSE["volumes"], volume
            assert not source.startswith("./") or _exists(f"infra/{source[2:]}"), volume
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()


def test_secrets_come_from_the_environment_and_are_asked_for():
    secret = re.compile(r"PASSWORD|SECRET|KEY|CONN|ACCESS|KEK|URL")
    may_lack = re.compile("S3_(ACCOUNTANTS|BANK|DATA)_|AIRFLOW_CONN_|PROVENANCE_(NOTIFY|LINEAGE)__|OPENLINEAGE_")
    harmless = {"PROVENANCE_STORE__URL", "PROVENANCE_STORE__ENDPOINT_URL", "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
                "AIRFLOW__API__BASE_URL", "PROVENANCE_SETTLEMENT__KEY"}  # fmt: skip
    for service in COMPOSE["services"].values():
        for name, value in service.get("environment", {}).items():
            if secret.search(name) and name not in harmless:
                assert VARIABLE.search(value), name
                optional = may_lack.match(name)
                assert optional or ":?" in VARIABLE.search(value)[0], f"{name} may be empty"


def test_the_example_of_an_environment_is_complete():
    text = (INFRA / "compose.env.example").read_text()
    said = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    asked = {name: (how, value) for name, how, value in VARIABLE.findall(COMPOSE_TEXT)}
    assert said.keys() == asked.keys()
    for name, (how, value) in asked.items():
        assert said[name] == ("" if how == ":?" else value), name
        assert how == ":-" or value, f"{name} is asked for without saying what it is"


def test_only_tasks_know_payees_and_only_their_own_parts_the_databases():
    who = {name: set(service.get("environment", {})) for name, service in COMPOSE["services"].items()}
    seeing = {name for name, names in who.items() if "PROVENANCE_PAYEES__KEY" in names}
    assert seeing == {"airflow-scheduler", "migrate"}
    for name in ("dask-worker", "dask-gpu-worker", "dask-scheduler", "exports-lock", "s3"):
        assert not any(variable.startswith(("PROVENANCE_DATABASE", "DB_", "AIRFLOW__DATABASE")) for variable in who[name]), name
        assert "databases" not in COMPOSE["services"][name]["networks"]
    for name in ("airflow-dag-processor", "airflow-triggerer"):
        told = {variable for variable in who[name] if not variable.startswith("PROVENANCE_NOTIFY__")}
        assert not any(variable.startswith(("PROVENANCE_", "AWS_")) for variable in told), name
    assert {name for name, names in who.items() if "DB_ADMIN_URL" in names} == {"setup", "migrate"}


def test_nothing_listens_to_the_world():
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for name in ("databases", "inside"):
        assert COMPOSE["networks"][name]["internal"]


# --- settings, files and commands --------------------------------------------------------------------------------------------


def _environments():
    for name, service in COMPOSE["services"].items():
        yield name, service.get("environment", {})
    told = {entry["name"]: entry["value"] for entry in VALUES["env"]}
    yield "airflow-values", told | {entry["envName"]: "secret" for entry in VALUES["secret"]}
    for name, container in _containers():
        yield name, {entry["name"]: entry["value"] for entry in container.get("env", [])}


@pytest.mark.parametrize(("name", "environment"), [pytest.param(*both, id=both[0]) for both in _environments()])
def test_settings_load(name, environment):
    filled = functools.partial(VARIABLE.sub, lambda found: found[3] if found[2] == ":-" else "x")
    values = {key: filled(value) for key, value in environment.items()}
    settings = load({key: value for key, value in values.items() if key.startswith("PROVENANCE_")})
    if "PROVENANCE_STORE__URL" in values:
        assert settings.store.url == "s3://provenance"
    if "PROVENANCE_PAYEES__KEY" in values and name != "metrics":
        assert "PROVENANCE_DATABASE__PAYEES_URL" in values, "payees are read as their own login"


def test_a_setting_that_is_none_would_be_seen():
    with pytest.raises(SettingsError):
        load({"PROVENANCE_CLUSTER__ADRESS": "tcp://dask-scheduler:8786"})


def _commands():
    """Everything that something runs, as words."""
    for name, service in COMPOSE["services"].items():
        words = service.get("command", [])
        if words[:1] == ["sh"]:
            text = re.sub(r"\bwhile |; do .*|\bexec ", "", words[-1])
            yield from ((name, part.split()) for part in re.split(r"&&|\n", text) if part.strip())
        elif words and not words[0].startswith("-"):
            yield name, words
    for name, container in _containers():
        yield name, container["args"]
    for path in (CHECKOUT / "docs/production.md", INFRA / "helm/airflow-values.yaml", INFRA / "compose.yaml"):
        for line in re.findall(r"((?:airflow|python -m infra\.|\.venv/bin/provenance|dask) ?[^`\n#|]*)", path.read_text()):
            words = line.split()
            if words[0] == ".venv/bin/provenance" or line.startswith("python -m"):
                yield path.name, words


@functools.cache
def _options(*words: str) -> str:
    asked = "-h" if words[0] == "weed" else "--help"
    command = [str(Path(sys.executable).with_name(words[0])), *words[1:], asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout + done.stderr


def _known(words: list[str]) -> bool:
    program = words[0].removeprefix(".venv/bin/")
    rest = [VARIABLE.sub(lambda found: found[3] or "x", word) for word in words[1:]]
    flags = [word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    match program:
        case "python":
            return rest[0] == "-m" and _exists(rest[1].replace(".", "/") + ".py")
        case "provenance":
            return rest[0] in get_command(app).commands
        case "airflow":
            from airflow.cli.cli_parser import get_parser

            return bool(get_parser().parse_args(rest))  # exits with a message for what it does not know
        case "weed":
            return all(f"  {flag}" in _options("weed", rest[0]) for flag in flags)
        case "dask":  # options of `dask cuda worker` are tested where dask-cuda is, below
            cuda = rest[:2] == ["cuda", "worker"]
            return cuda or all(flag.removeprefix("--no-") in _options("dask", rest[0]) for flag in flags)
        case _:
            return False


COMMANDS = [pytest.param(words, id=f"{number}-{name}-{words[0]}") for number, (name, words) in enumerate(_commands())]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_exists(words):
    assert _known(words), words


def test_a_command_that_is_none_would_be_seen():
    assert not _known(["provenance", "settle-up"])
    assert not _known(["python", "-m", "infra.postgres.set_up"])
    assert not _known(["dask", "worker", "--nthread-count", "1"])
    assert not _known(["weed", "server", "-s3.port.nothing=0"])
    with pytest.raises(SystemExit):
        _known(["airflow", "scheduler", "--workers", "2"])


def _gpu_commands():
    yield COMPOSE["services"]["dask-gpu-worker"]["command"]
    yield from (container["args"] for _, container in _containers() if "cuda" in container["args"])


def test_workers_on_gpus_have_one_thread_a_pool_and_a_limit():
    commands = list(_gpu_commands())
    assert len(commands) == 2
    for words in commands:
        told = {word: words[number + 1] for number, word in enumerate(words) if word.startswith("--")}
        assert told["--nthreads"] == "1"
        assert told["--resources"] == "GPU=1", "what tasks ask for"
        assert told["--rmm-pool-size"]
        assert told["--set-rmm-allocator-for-libs"] == "cupy,torch", "or the pool only takes memory from both"
        assert told["--device-memory-limit"]
        assert told["--local-directory"] == "/scratch"


@pytest.mark.gpu
def test_options_of_workers_on_gpus():
    cli = pytest.importorskip("dask_cuda.cli")
    known = {name for parameter in cli.worker.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for words in _gpu_commands():
        assert {word for word in words if word.startswith("--")} <= known


DOCUMENTS = ["docs/production.md", "infra/compose.yaml", "infra/helm/airflow-values.yaml", "infra/helm/dask-cluster.yaml",
             "infra/images/Containerfile.airflow", "infra/images/Containerfile.worker", "infra/postgres/roles.sql"]  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_is_named_exists(document):
    text = (CHECKOUT / document).read_text()
    named = r"(?<![/\w])((?:infra|docs|tests|tasks|dags|provenance)/[\w./-]*\w)"
    for path in re.findall(named, text.replace("/opt/provenance/", "")):
        assert _exists(path), path


def test_the_guide_names_every_variable():
    text = (CHECKOUT / "docs/production.md").read_text()
    for name, _, _ in VARIABLE.findall(COMPOSE_TEXT):
        if not name.startswith("S3_") or "PIPELINE" in name:
            assert f"`{name}`" in text, name
    for entry in (*VALUES["env"], *VALUES["secret"]):
        name = entry.get("name") or entry["envName"]
        assert f"`{name}`" in text, name
    for key in ("metadataSecretName", "connection", "fernet-key", "api-secret-key", "jwt-secret"):
        assert key in text


# --- Kubernetes --------------------------------------------------------------------------------------------------------------


def _check(model: str, value, where: str) -> None:
    """A value against a type of Kubernetes' API, as its client has it: every key known, every type right."""
    if (many := re.fullmatch(r"[Ll]ist\[(.*)\]", model)) and isinstance(value, list):
        for number, item in enumerate(value):
            _check(many[1], item, f"{where}[{number}]")
        return
    if many := re.fullmatch(r"[Dd]ict[\[(]\w+, (.*)[\])]", model):
        assert isinstance(value, dict), where
        for key, item in value.items():
            _check(many[1], item, f"{where}.{key}")
        return
    simple = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}
    if model in simple:
        quantity = re.search(r"resources\.(requests|limits)\.", where)
        assert isinstance(value, (str, int) if quantity else simple[model]), f"{where}: {value!r} is no {model}"
        return
    kind = getattr(k8s, model)
    names = {theirs: ours for ours, theirs in kind.attribute_map.items()}
    assert isinstance(value, dict), where
    for key, item in value.items():
        assert key in names, f"{where}.{key}"
        _check(kind.openapi_types[names[key]], item, f"{where}.{key}")


def _crd(name: str):
    """The schema of a custom resource, as the operator's package carries it."""
    from dask_kubernetes import operator

    folder = Path(operator.__file__).parent / "customresources"
    document = yaml.safe_load((folder / f"{name}.yaml").read_text())
    registry = Registry(retrieve=lambda uri: _retrieve(folder, uri))
    schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return document, Draft202012Validator(schema, registry=registry)


def _retrieve(folder: Path, uri: str):
    if uri.startswith("python://k8s_crd_resolver/"):  # Kubernetes' own types, which `_check` looks at
        known = {f"io.k8s.api.core.v1.{name}": {"type": "object"} for name in ("PodSpec", "ServiceSpec")}
        return DRAFT202012.create_resource({"definitions": known})
    assert uri.startswith("python://dask_kubernetes/operator/customresources/"), uri
    return DRAFT202012.create_resource(yaml.safe_load((folder / uri.rsplit("/", 1)[-1]).read_text()))


@pytest.mark.parametrize("document", DASK, ids=lambda document: document["kind"])
def test_dask_s_resources_are_what_its_operator_defines(document):
    definition, validator = _crd(document["kind"].lower())
    spec = definition["spec"]
    assert document["kind"] == spec["names"]["kind"]
    assert document["apiVersion"] == f"{spec['group']}/{spec['versions'][0]['name']}"
    assert [error.message for error in validator.iter_errors(document)] == []
    broken = json.loads(json.dumps(document))
    del broken["spec"]["worker" if "worker" in broken["spec"] else "maximum"]
    assert [error.message for error in validator.iter_errors(broken)] != []


def test_pods_of_dask_are_pods():
    cluster = DASK[0]["spec"]
    for part in ("scheduler", "worker"):
        _check("V1PodSpec", cluster[part]["spec"], part)
    _check("V1ServiceSpec", cluster["scheduler"]["service"], "service")
    with pytest.raises(AssertionError, match=r"pod\.containers\[0\]\.imag"):
        _check("V1PodSpec", {"containers": [{"imag": "x"}]}, "pod")
    assert DASK[1]["spec"]["cluster"] == DASK[0]["metadata"]["name"]
    ports = {port["name"] for port in cluster["scheduler"]["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in cluster["scheduler"]["service"]["ports"]} == ports


def test_pods_of_airflow_are_pods():
    """What of the chart's values is Kubernetes' own; the chart's schema refers to the same types."""
    for where, model in (("volumes", "list[V1Volume]"), ("volumeMounts", "list[V1VolumeMount]"), ("env", "list[V1EnvVar]")):
        _check(model, VALUES[where], where)
    _check("V1PodSecurityContext", VALUES["securityContexts"]["pod"], "pod")
    _check("V1SecurityContext", VALUES["securityContexts"]["containers"], "containers")
    for part in ("scheduler", "apiServer", "dagProcessor", "triggerer"):
        _check("V1ResourceRequirements", VALUES[part]["resources"], f"{part}.resources")
    assert {mount["name"] for mount in VALUES["volumeMounts"]} == {volume["name"] for volume in VALUES["volumes"]}
    scheduler = DASK[0]["metadata"]["name"]
    addresses = {entry["value"] for entry in VALUES["env"] if entry["name"] == "PROVENANCE_CLUSTER__ADDRESS"}
    assert addresses == {f"tcp://{scheduler}-scheduler.provenance.svc:8786"}


def test_airflow_knows_the_configuration():
    from airflow.configuration import conf

    described = conf.configuration_description
    for section, options in VALUES["config"].items():
        for option in options:
            assert option in described[section]["options"], f"[{section}] {option}"
    for name, service in COMPOSE["services"].items():
        for variable in service.get("environment", {}):
            if variable.startswith("AIRFLOW__"):
                _, section, option = variable.lower().split("__")
                assert option in described[section]["options"], f"{name}: {variable}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:starlette")
def test_classes_that_are_named_exist():
    from pydoc import locate

    manager = VALUES["config"]["core"]["auth_manager"]
    assert locate(manager)
    assert COMPOSE["services"]["airflow-scheduler"]["environment"]["AIRFLOW__CORE__AUTH_MANAGER"] == manager
    assert locate(VALUES["config"]["secrets"]["backend"])
    json.loads(VALUES["config"]["secrets"]["backend_kwargs"])
