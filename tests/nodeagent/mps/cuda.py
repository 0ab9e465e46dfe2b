"""A CUDA program for a machine with a real GPU: becomes a user, then obeys words on its stdin.

Each word is answered by one line of JSON. It speaks to the driver's own API, so that it needs
nothing but the driver.
"""

import ctypes
import json
import os
import sys
from collections.abc import Callable
from typing import Any

OUT_OF_MEMORY = 2
_MIB = 1 << 20
_LARGEST, _SMALLEST = 64 * _MIB, 2 * _MIB


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

    def memory(self) -> dict[str, int]:
        """What cudaMemGetInfo tells, in MiB."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return {"free_mib": free.value // _MIB, "total_mib": total.value // _MIB}

    def fill(self) -> dict[str, int]:
        """Allocates until it is refused; the MiB that it got, and with which error it ended."""
        size, code = _LARGEST, 0
        while size >= _SMALLEST:
            try:
                self._allocate(size)
            except CudaError as error:
                code, size = error.code, size // 2
        return {"allocated_mib": sum(n for _, n in self._blocks) // _MIB, "refused_with": code}

    def _allocate(self, size: int) -> None:
        block = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(block), ctypes.c_size_t(size))
        self._blocks.append((block, size))

    def work(self) -> dict[str, bool]:
        """Writes to the first block and waits for the GPU."""
        block, size = self._blocks[0]
        self._call("cuMemsetD8_v2", block, ctypes.c_ubyte(7), ctypes.c_size_t(size))
        self._call("cuCtxSynchronize")
        return {"works": True}


def main(uid: int) -> None:
    """Obeys until stdin ends; what fails is answered with `error`."""
    os.setgid(uid)
    os.setuid(uid)
    cuda: Cuda | None = None
    for line in sys.stdin:
        try:
            if cuda is None:
                cuda = Cuda()
            words: dict[str, Callable[[], Any]] = {
                "start": dict,
                "memory": cuda.memory,
                "fill": cuda.fill,
                "work": cuda.work,
            }
            answer = words[line.strip()]()
        except (CudaError, OSError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)  # noqa: T201  its one purpose


if __name__ == "__main__":
    main(int(sys.argv[1]))
