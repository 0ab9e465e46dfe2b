"""The kubelet's two gRPC APIs as generated code: device plugin v1beta1 and PodResources v1.

Everything but this file and the .proto files is generated (`make protos`), by the versions that
hack/protoc.lock pins: gencode that old still loads on today's runtimes. The files' paths differ,
because two of one name collide.
"""
