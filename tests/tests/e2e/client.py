"""Creates, watches, execs into and deletes a pod in the namespace that is named. Prints `all good` at the end."""

import sys

from kubernetes import client, config, watch
from kubernetes.stream import stream

namespace = sys.argv[1]
config.load_kube_config()
core = client.CoreV1Api()

pod = client.V1Pod(
    metadata=client.V1ObjectMeta(name="py", labels={"app": "py"}),
    spec=client.V1PodSpec(
        termination_grace_period_seconds=0,
        containers=[client.V1Container(name="c", image="balsa/busybox:1", command=["sleep", "1000"])],
    ),
)
created = core.create_namespaced_pod(namespace, pod)
assert created.metadata.uid and created.status.phase == "Pending"

phases = []
for event in watch.Watch().stream(
    core.list_namespaced_pod, namespace, label_selector="app=py", timeout_seconds=60
):
    phases.append(event["object"].status.phase)
    if phases[-1] == "Running":
        break
assert phases[-1] == "Running", phases

answer = stream(
    core.connect_get_namespaced_pod_exec, "py", namespace, command=["sh", "-c", "echo $((6*7))"],
    stdout=True, stderr=True, stdin=False, tty=False,
)
assert answer.strip() == "42", answer

# From the present revision on, so that the deletion cannot be missed however quick it is.
revision = core.list_namespaced_pod(namespace).metadata.resource_version
core.delete_namespaced_pod("py", namespace)
for event in watch.Watch().stream(
    core.list_namespaced_pod, namespace, label_selector="app=py", resource_version=revision, timeout_seconds=60
):
    if event["type"] == "DELETED":
        break
else:
    raise SystemExit("the pod was not deleted")
try:
    core.read_namespaced_pod("py", namespace)
    raise SystemExit("the pod is still there")
except client.ApiException as error:
    assert error.status == 404, error
print("all good")
