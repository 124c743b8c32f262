#!/usr/bin/env python3
"""A real Kubernetes control plane on three replicas of Balsa's store, which loses the store's leader half-way.

kube-apiserver, kube-controller-manager and kube-scheduler run as they are; nodes are objects that this program keeps
alive, and it says of every pod that is bound that it runs. A Deployment is created; when half of its replicas are
ready the store that leads is ended with SIGKILL, and started again a little later. Everything has to converge.

Usage: kubernetes_on_store.py --store PROGRAM --peers FOLDER [--replicas 1000] [--nodes 20]
FOLDER holds kube-apiserver, kube-controller-manager, kube-scheduler and etcdctl. Needs the `kubernetes` package.
Everything listens on loopback, lives in a temporary folder and is ended at the end; exit code 0 means: converged.
"""

import argparse
import atexit
import concurrent.futures
import datetime
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import kubernetes
from kubernetes import client, watch

STORES = 3
CLIENT_PORT, PEER_PORT, METRICS_PORT = 31010, 31020, 31030
API_PORT = 31443
TOKEN = "peer-test"
NAMESPACE = "default"


def say(text):
    print(f"{time.monotonic() - STARTED:7.1f} s  {text}", flush=True)


STARTED = time.monotonic()


class Processes:
    """What this program has started; ended with it."""

    def __init__(self, folder):
        self.folder = folder
        self.running = {}
        atexit.register(self.end)

    def start(self, name, arguments):
        log = open(self.folder / f"{name}.log", "ab")
        self.running[name] = subprocess.Popen([str(word) for word in arguments], stdout=log, stderr=log)

    def kill(self, name):
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def end(self):
        for process in reversed(list(self.running.values())):
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def start_store(processes, program, folder, index):
    names = range(STORES)
    initial = ",".join(f"s{i}=http://127.0.0.1:{PEER_PORT + i}" for i in names)
    processes.start(f"store{index}", [
        program, "--name", f"s{index}", "--data-dir", folder / f"store{index}",
        "--listen-client", f"127.0.0.1:{CLIENT_PORT + index}", "--listen-peer", f"127.0.0.1:{PEER_PORT + index}",
        "--listen-metrics", f"127.0.0.1:{METRICS_PORT + index}",
        "--advertise-client", f"http://127.0.0.1:{CLIENT_PORT + index}",
        "--advertise-peer", f"http://127.0.0.1:{PEER_PORT + index}", "--initial-cluster", initial])


def store_leader(etcdctl):
    endpoints = ",".join(f"127.0.0.1:{CLIENT_PORT + i}" for i in range(STORES))
    said = subprocess.run([etcdctl, "--endpoints", endpoints, "endpoint", "status", "-w", "json"], capture_output=True, text=True)
    for number, member in enumerate(json.loads(said.stdout)):
        status = member["Status"]
        if status["header"]["member_id"] == status.get("leader"):
            return int(member["Endpoint"].rsplit(":", 1)[1]) - CLIENT_PORT
    raise RuntimeError(f"no store leads: {said.stdout}{said.stderr}")


def start_control_plane(processes, peers, folder):
    key = folder / "sa.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
    stores = ",".join(f"http://127.0.0.1:{CLIENT_PORT + i}" for i in range(STORES))
    processes.start("kube-apiserver", [
        peers / "kube-apiserver", f"--etcd-servers={stores}", "--bind-address=127.0.0.1", f"--secure-port={API_PORT}",
        f"--cert-dir={folder / 'certs'}", f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=AlwaysAllow",
        "--service-cluster-ip-range=10.95.0.0/24", "--service-account-issuer=https://peer.test",
        f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
        "--disable-admission-plugins=ServiceAccount"])
    config = folder / "kubeconfig"
    config.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"https://127.0.0.1:{API_PORT}", "insecure-skip-tls-verify": True}}],
        "users": [{"name": "c", "user": {"token": TOKEN}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}]}))
    kubernetes.config.load_kube_config(str(config))
    until("the apiserver is ready", 120, lambda: client.CoreV1Api().list_namespace())
    processes.start("kube-controller-manager", [
        peers / "kube-controller-manager", f"--kubeconfig={config}", f"--service-account-private-key-file={key}",
        "--bind-address=127.0.0.1", "--secure-port=31257", f"--cert-dir={folder / 'certs-kcm'}", "--kube-api-qps=300",
        "--kube-api-burst=600"])
    processes.start("kube-scheduler", [
        peers / "kube-scheduler", f"--kubeconfig={config}", "--bind-address=127.0.0.1", "--secure-port=31259",
        f"--cert-dir={folder / 'certs-scheduler'}", "--kube-api-qps=300", "--kube-api-burst=600"])


def until(what, seconds, attempt):
    deadline = time.monotonic() + seconds
    last = None
    while time.monotonic() < deadline:
        try:
            result = attempt()
            if result is not None and result is not False:
                say(what)
                return result
        except Exception as error:  # the condition is asked again; the last error is told
            last = error
        time.sleep(0.5)
    sys.exit(f"not within {seconds} s: {what}; last: {last}")


def now():
    return datetime.datetime.now(datetime.timezone.utc)


class FakeNodes:
    """Nodes that exist as objects, are always ready, and whose pods run at once."""

    def __init__(self, count):
        self.names = [f"fake-{number:02}" for number in range(count)]
        self.core, self.leases = client.CoreV1Api(), client.CoordinationV1Api()
        self.pool = concurrent.futures.ThreadPoolExecutor(16)
        self.said = set()

    def create(self):
        for name in self.names:
            ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now(), "lastTransitionTime": now()}
            room = {"cpu": "64", "memory": "256Gi", "pods": "110"}
            body = {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
                    "status": {"capacity": room, "allocatable": room, "conditions": [ready]}}
            self.core.create_node(body)
            self.core.patch_node_status(name, {"status": body["status"]})
        threading.Thread(target=self.renew, daemon=True).start()
        threading.Thread(target=self.run_pods, daemon=True).start()

    def renew(self):
        while True:
            for name in self.names:
                spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now()}
                body = {"metadata": {"name": name}, "spec": spec}
                try:
                    try:
                        self.leases.patch_namespaced_lease(name, "kube-node-lease", {"spec": spec})
                    except client.ApiException as error:
                        if error.status != 404:
                            raise
                        self.leases.create_namespaced_lease("kube-node-lease", body)
                except Exception as error:  # the next round tries again
                    say(f"lease of {name}: {str(error)[:120]}")
            time.sleep(5)

    def run_pods(self):
        while True:
            try:
                for event in watch.Watch().stream(self.core.list_namespaced_pod, NAMESPACE, timeout_seconds=300):
                    pod = event["object"]
                    if event["type"] != "DELETED" and pod.spec.node_name and pod.status.phase == "Pending":
                        self.pool.submit(self.run_pod, pod.metadata.name, pod.metadata.uid)
            except Exception as error:  # watch again from the start
                say(f"watching pods: {str(error)[:120]}")
                time.sleep(0.5)

    def run_pod(self, name, uid):
        if uid in self.said:
            return
        condition = {"type": "Ready", "status": "True", "lastTransitionTime": now().isoformat()}
        status = {"phase": "Running", "conditions": [condition], "startTime": now().isoformat(), "podIP": "10.1.2.3",
                  "containerStatuses": [{"name": "c", "ready": True, "started": True, "restartCount": 0, "image": "i", "imageID": "i",
                                         "state": {"running": {"startedAt": now().isoformat()}}}]}
        for _ in range(100):
            try:
                self.core.patch_namespaced_pod_status(name, NAMESPACE, {"status": status})
                self.said.add(uid)
                return
            except client.ApiException as error:
                if error.status == 404:
                    return
            except Exception:  # a connection that broke
                pass
            time.sleep(0.5)


def deployment(replicas):
    template = {"metadata": {"labels": {"app": "many"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    return {"metadata": {"name": "many"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "many"}}, "template": template}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True, type=pathlib.Path)
    parser.add_argument("--peers", required=True, type=pathlib.Path)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=20)
    options = parser.parse_args()
    import urllib3
    urllib3.disable_warnings()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kubernetes-on-store-"))
    processes = Processes(folder)
    for index in range(STORES):
        start_store(processes, options.store, folder, index)
    until("a store leads", 60, lambda: str(store_leader(options.peers / "etcdctl")))
    start_control_plane(processes, options.peers, folder)
    FakeNodes(options.nodes).create()
    apps = client.AppsV1Api()
    until("the deployment is created", 60, lambda: apps.create_namespaced_deployment(NAMESPACE, deployment(options.replicas)))

    def ready(wanted):
        return lambda: (apps.read_namespaced_deployment_status("many", NAMESPACE).status.ready_replicas or 0) >= wanted
    until(f"{options.replicas // 2} replicas are ready", 600, ready(options.replicas // 2))
    leader = store_leader(options.peers / "etcdctl")
    processes.kill(f"store{leader}")
    say(f"store{leader}, which led, was killed")
    until("another store leads", 60, lambda: str(store_leader_without(options.peers / "etcdctl", leader)))
    time.sleep(5)
    start_store(processes, options.store, folder, leader)
    say(f"store{leader} was started again")
    until(f"{options.replicas} replicas are ready", 900, ready(options.replicas))
    pods = client.CoreV1Api().list_namespaced_pod(NAMESPACE).items
    running = sum(pod.status.phase == "Running" for pod in pods)
    placed = {}
    for pod in pods:
        placed[pod.spec.node_name] = placed.get(pod.spec.node_name, 0) + 1
    say(f"{len(pods)} pods, {running} running, on {len(placed)} nodes ({min(placed.values())} to {max(placed.values())} each)")
    apps.delete_namespaced_deployment("many", NAMESPACE)
    until("all pods are deleted or being deleted", 600, lambda: all(
        pod.metadata.deletion_timestamp for pod in client.CoreV1Api().list_namespaced_pod(NAMESPACE).items))
    processes.end()
    sys.exit(0 if len(pods) == running == options.replicas else "not converged")


def store_leader_without(etcdctl, gone):
    """Asks only those that are left: the dead one makes the status of all an error."""
    for index in range(STORES):
        if index != gone:
            said = subprocess.run([etcdctl, "--endpoints", f"127.0.0.1:{CLIENT_PORT + index}", "endpoint", "status", "-w", "json"],
                                  capture_output=True, text=True)
            status = json.loads(said.stdout)[0]["Status"]
            if status["header"]["member_id"] == status.get("leader"):
                return index
    raise RuntimeError("nobody leads")


main()
