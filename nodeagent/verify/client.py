"""A CUDA program in a slice: takes its place in the container's stead, then obeys words on stdin.

Each word is answered by one line of JSON. It speaks to the driver's own API by ctypes, so that it
needs nothing but the driver, and ends with the program that started it.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from nodeagent.linux.libc import call
from nodeagent.linux.mounts import bind_read_only, enter, leave_host

OUT_OF_MEMORY: Final = 2
ILLEGAL_ADDRESS: Final = 700

_PARENT_DEATH_SIGNAL: Final = 1
_MIB: Final = 1 << 20
_LARGEST, _SMALLEST = 64 * _MIB, 2 * _MIB
_ATTACH_GLOBAL: Final = 1

# `spin` keeps the GPU busy for a minute of its clock's 1e11 ticks or until it is killed; `fault`
# writes where nothing is. PTX 6.0 is understood by every driver that knows Volta.
_KERNELS: Final = b"""
.version 6.0
.target sm_70
.address_size 64
.visible .entry spin()
{
    .reg .pred %p;
    .reg .u64 %begin, %now;
    mov.u64 %begin, %clock64;
again:
    mov.u64 %now, %clock64;
    sub.u64 %now, %now, %begin;
    setp.lt.u64 %p, %now, 100000000000;
    @%p bra again;
    ret;
}
.visible .entry fault()
{
    .reg .u64 %nowhere;
    .reg .u32 %value;
    mov.u64 %nowhere, 0;
    mov.u32 %value, 1;
    st.global.u32 [%nowhere], %value;
    ret;
}
"""


class CudaError(Exception):
    """What a call of the driver API answered."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"{call}: CUresult {code}")
        self.code = code


class Cuda:
    """A context on the only device."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._blocks: list[tuple[ctypes.c_uint64, int]] = []
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuCtxCreate_v2", ctypes.byref(context), 0, device)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            raise CudaError(name, code)

    def start(self) -> dict[str, int]:
        """The MiB that CUDA tells of."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return {"free_mib": free.value // _MIB, "total_mib": total.value // _MIB}

    def fill(self) -> dict[str, int]:
        """Allocates until it is refused; the MiB that it got, and with which error it ended."""
        size, code = _LARGEST, 0
        while size >= _SMALLEST:
            try:
                self._allocate("cuMemAlloc_v2", size)
            except CudaError as error:
                code, size = error.code, size // 2
        return {"allocated_mib": sum(n for _, n in self._blocks) // _MIB, "refused_with": code}

    def managed(self, mib: int) -> dict[str, int]:
        """Allocates managed memory and touches it on the GPU; the MiB."""
        self._allocate("cuMemAllocManaged", mib * _MIB, _ATTACH_GLOBAL)
        return self.work()

    def _allocate(self, call: str, size: int, *more: int) -> None:
        block = ctypes.c_uint64()
        self._call(call, ctypes.byref(block), ctypes.c_size_t(size), *more)
        self._blocks.append((block, size))

    def work(self) -> dict[str, int]:
        """Writes to the newest block and waits for the GPU; the MiB written."""
        if not self._blocks:
            self._allocate("cuMemAlloc_v2", _SMALLEST)
        block, size = self._blocks[-1]
        self._call("cuMemsetD8_v2", block, ctypes.c_ubyte(7), ctypes.c_size_t(size))
        self._call("cuCtxSynchronize")
        return {"written_mib": size // _MIB}

    def spin(self) -> dict[str, int]:
        """Keeps the GPU busy; returns as soon as it has begun."""
        self._launch(b"spin")
        return {}

    def fault(self) -> dict[str, int]:
        """Makes a fatal fault; raises CudaError."""
        self._launch(b"fault")
        self._call("cuCtxSynchronize")
        return {}

    def _launch(self, name: bytes) -> None:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), _KERNELS)
        self._call("cuModuleGetFunction", ctypes.byref(function), module, name)
        self._call("cuLaunchKernel", function, 1, 1, 1, 1, 1, 1, 0, None, None, None)


def main(uid: int, namespace: int, sealed: str) -> None:
    """Obeys until stdin ends; what fails is answered with `error` and CUDA's `code`."""
    if namespace:
        enter(namespace)
    if sealed:
        leave_host()
        bind_read_only(sealed, os.environ["CUDA_MPS_PIPE_DIRECTORY"])
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    call("prctl", _PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    cuda: Cuda | None = None
    for line in sys.stdin:
        try:
            if cuda is None:
                cuda = Cuda()
            word, *numbers = line.split()
            words: dict[str, Callable[..., Any]] = {
                name: getattr(cuda, name)
                for name in ("start", "fill", "managed", "work", "spin", "fault")
            }
            answer = words[word](*map(int, numbers))
        except CudaError as error:
            answer = {"error": str(error), "code": error.code}
        except OSError as error:
            answer = {"error": str(error), "code": -1}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
