"""Checks Kubernetes manifests against the schemas of those who will read them, refusing keys that nobody knows.

kubernetes-validate carries the API's own schemas. Kubeflow's and the Prometheus operator's kinds are held against the models that
they publish; the pod template within a PyTorchJob is held against the API's schema too. That the validators refuse what is wrong is
checked on the way: every manifest is also tried with one key misspelt.
"""

import copy
import os
import subprocess
import sys

import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator import v1 as prometheus
from kubeflow.training import models as kubeflow

VERSION = "1.37"


def core(manifest):
    kubernetes_validate.validate(manifest, VERSION, strict=True)


def typed(value, kind, at):
    """Holds a value against one of Kubeflow's generated models, key by key."""
    if kind.startswith("dict(str, "):
        for key, each in value.items():
            typed(each, kind[len("dict(str, "):-1], f"{at}.{key}")
    elif kind.startswith("list["):
        for number, each in enumerate(value):
            typed(each, kind[len("list["):-1], f"{at}[{number}]")
    elif kind == "V1PodTemplateSpec":
        core({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": value})
    elif kind == "V1ObjectMeta":
        core({"apiVersion": "v1", "kind": "ConfigMap", "metadata": value})
    elif hasattr(kubeflow, kind):
        model = getattr(kubeflow, kind)
        keys = {theirs: ours for ours, theirs in model.attribute_map.items()}
        for key, each in value.items():
            if key not in keys:
                raise ValueError(f"{at} knows no {key}, but {', '.join(sorted(keys))}")
            typed(each, model.openapi_types[keys[key]], f"{at}.{key}")
    else:
        known = {"str": str, "int": int, "bool": bool}[kind]
        if type(value) is not known:
            raise ValueError(f"{at} = {value!r}, which is no {kind}")


def pytorch_job(manifest):
    typed(manifest, "KubeflowOrgV1PyTorchJob", manifest["kind"])
    specs = manifest["spec"]["pytorchReplicaSpecs"]
    if not set(specs) <= {"Master", "Worker"} or specs["Master"]["replicas"] != 1:
        raise ValueError("replicas are of type Master, of which there is one, and Worker")
    for name, spec in specs.items():
        if spec["restartPolicy"] not in ("Always", "OnFailure", "Never", "ExitCode"):
            raise ValueError(f"{name}: restartPolicy {spec['restartPolicy']}")
        if "pytorch" not in [each["name"] for each in spec["template"]["spec"]["containers"]]:
            raise ValueError(f"{name}: the operator wants a container called pytorch")


def pod_monitor(manifest):
    # The model ignores what it does not know: then something is missing when it is written out again.
    again = prometheus.PodMonitor.model_validate(manifest).model_dump(by_alias=True, exclude_none=True, mode="json")
    if again != manifest:
        raise ValueError(f"a key is not known: {manifest} came back as {again}")


CHECKS = {
    "batch/v1": core,
    "v1": core,
    "kubeflow.org/v1": pytorch_job,
    "monitoring.coreos.com/v1": pod_monitor,
}


def misspelt(manifest):
    """The manifest with a key of its innermost, last list item or mapping misspelt."""
    wrong = copy.deepcopy(manifest)
    place = wrong["spec"]
    while True:
        # Into the last mapping, then the last one of that, and so on.
        inner = [each for each in place.values() if isinstance(each, dict)]
        inner += [item for each in place.values() if isinstance(each, list) for item in each if isinstance(item, dict)]
        # Labels may be called anything.
        inner = [each for each in inner if each and not any("/" in key or key == "matchLabels" for key in each)]
        if not inner:
            break
        place = inner[-1]
    key = list(place)[-1]
    place[key + "x"] = place.pop(key)
    return wrong, key


def commands(value):
    """Every container's command, where the containers may be."""
    if isinstance(value, dict):
        if "image" in value and "command" in value:
            yield value["command"]
        for each in value.values():
            yield from commands(each)
    elif isinstance(value, list):
        for each in value:
            yield from commands(each)


def understood(command, folder):
    """Runs one of our own commands: it must fail for want of data or GPUs (1), not for an option that it does not have (2)."""
    binary = os.path.join(folder, command[0])
    if not os.path.exists(binary):
        return
    ended = subprocess.run([binary, *command[1:]], capture_output=True, text=True, timeout=60)
    if ended.returncode != 1:
        raise ValueError(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr}")
    print(f"    {' '.join(command[:2])} …: {ended.stderr.strip().splitlines()[-1][:110]}")


def main(paths):
    folder = os.environ.get("BIN", "target/release")
    for path in paths:
        with open(path) as file:
            for manifest in yaml.safe_load_all(file):
                check = CHECKS[manifest["apiVersion"]]
                try:
                    check(manifest)
                except Exception as error:
                    sys.exit(f"{path}: {error}")
                wrong, key = misspelt(manifest)
                try:
                    check(wrong)
                    refused = False
                except Exception:
                    refused = True
                if not refused:
                    sys.exit(f"{path}: the validator takes {key}x for {key}; it proves nothing")
                print(f"  {path}: {manifest['kind']} {manifest['metadata']['name']} (and not with {key}x for {key})")
                for command in {tuple(command) for command in commands(manifest)}:
                    try:
                        understood(command, folder)
                    except ValueError as error:
                        sys.exit(f"{path}: {error}")


main(sys.argv[1:])
