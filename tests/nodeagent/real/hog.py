"""Asks the kubelet's PodResources as fast as it answers; run as a module, given the socket.

A stand-in for a monitoring agent that is out of hand: the kubelet's limit is one for all who ask.
"""

import sys
import threading

import grpc

from nodeagent.kubelet.podresources import CHANNEL_OPTIONS
from nodeagent.kubelet_api import podresources_v1_pb2 as api
from nodeagent.kubelet_api.podresources_v1_pb2_grpc import PodResourcesListerStub

THREADS = 4


def _ask(socket: str, refused: threading.Event) -> None:
    with grpc.insecure_channel(f"unix:{socket}", CHANNEL_OPTIONS) as channel:
        stub = PodResourcesListerStub(channel)
        while True:
            try:
                stub.List(api.ListPodResourcesRequest(), timeout=5)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    refused.set()


def main(socket: str) -> None:
    refused = threading.Event()
    for _ in range(THREADS):
        threading.Thread(target=_ask, args=(socket, refused), daemon=True).start()
    refused.wait()
    sys.stdout.write("the kubelet refuses\n")
    sys.stdout.flush()
    sys.stdin.read()  # until whoever started us is done, or gone


if __name__ == "__main__":
    main(sys.argv[1])
