"""The kubelet's two gRPC APIs as generated code: device plugin v1beta1 and PodResources v1.

Everything but this file and the .proto files is generated, from the repository's root, by
grpcio-tools 1.66.2 with mypy-protobuf 3.6.0 (gencode that old still loads on today's runtimes):
`python -m grpc_tools.protoc -I. --python_out=. --mypy_out=. --grpc_python_out=. --mypy_grpc_out=.
nodeagent/kubelet_api/*.proto`. Their paths differ, because two files of one name collide.
"""
