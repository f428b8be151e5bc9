"""One loaded variant in one process that times runs on request, one JSON line each.

Runs as `python -m tasks.examine.speed.worker FOLDER [SESSION_OPTIONS]`. Imports next to nothing,
because its own memory is measured; which runs are asked for, and what they mean, is
`schedule.py`'s matter.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ORPHANED = 97
OUT_OF_MEMORY = 98

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_MEMORY = {"VmHWM": "hwm_b", "VmRSS": "rss_b", "RssAnon": "anon_b", "RssFile": "file_b"}

# The least prompt that every model can read: loading has ended when its first token is there.
_FIRST_PROMPT = range(1, 17)


def main(folder: Path, session_options: str) -> None:
    """Load the folder, make a first token, say so, and answer requests until the input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what native code prints must not get between the lines
    requests: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()

    started = time.perf_counter()
    import numpy as np
    import onnxruntime_genai as og

    og.disable_telemetry_events()
    imported, base = time.perf_counter(), memory()
    config = og.Config(str(folder))
    config.overlay(f'{{"model":{{"decoder":{{"session_options":{session_options}}}}}}}')
    model = og.Model(config)
    tokenizer = og.Tokenizer(model)
    loaded = {"import_s": imported - started, "load_s": time.perf_counter() - imported}
    after_load = memory()
    first = _run(og, model, tokenizer, np.asarray(_FIRST_PROMPT, np.int32), 1)
    ready = {
        **loaded,
        "first_token_s": first["ttft_s"],
        "base_rss_bytes": base["hwm_b"],
        "load_peak_rss_bytes": after_load["hwm_b"],
    }
    print(json.dumps(ready), file=replies)
    while True:
        request = requests.get()
        prompt = np.asarray(request["prompt"], np.int32)
        max_length = request.get("max_length")
        peak_was_reset = request.get("reset_peak", False) and reset_peak()
        timing = _run(og, model, tokenizer, prompt, request["new_tokens"], max_length)
        print(json.dumps({**timing, "peak_was_reset": peak_was_reset}), file=replies)


def _run(
    og: Any, model: Any, tokenizer: Any, prompt: Any, new_tokens: int, max_length: int | None = None
) -> dict[str, Any]:
    """Generate a fixed number of tokens; the clock starts before the generator is made.

    The KV cache is made for `max_length` tokens, whatever is used of it; None is what is used.
    """
    length = len(prompt) + new_tokens
    tokenize_s, switches = _tokenize_s(tokenizer, prompt), involuntary_switches()
    start = _clocks()
    parameters = og.GeneratorParams(model)
    # min_length masks the end-of-sequence token, so that every run has the same work. No seed, or
    # each first token would come 14 ms earlier than in an application, which gives none (GREEDY).
    parameters.set_search_options(
        do_sample=False, batch_size=1, max_length=max_length or length, min_length=length
    )
    generator = og.Generator(model, parameters)
    stream = tokenizer.create_stream()
    created = _clocks()
    generator.append_tokens(prompt)
    prefilled = _clocks()
    # The prefill made the first token's logits: n tokens are n - 1 decoding steps.
    _next_token(generator, stream)
    shown = [first := _clocks()]
    for _ in range(new_tokens - 1):
        _next_token(generator, stream)
        shown.append(_clocks())
    end = shown[-1]
    return {
        "tokenize_s": tokenize_s,
        "create_s": created[0] - start[0],
        "prefill_s": prefilled[0] - created[0],
        "ttft_s": first[0] - start[0],
        "decode_s": end[0] - first[0],
        "e2e_s": end[0] - start[0],
        "itl": [late[0] - early[0] for early, late in pairwise(shown)],
        "cpu_prefill_s": prefilled[1] - created[1],
        "cpu_ttft_s": first[1] - start[1],
        "cpu_decode_s": end[1] - first[1],
        "nvcs": _difference(switches, involuntary_switches()),
        **memory(),  # the generator is still there
    }


def _clocks() -> tuple[float, float]:
    """Read seconds and CPU seconds at one place, so that both are of the same work.

    The latter are those of all native threads too: robust on a shared machine (3 % against 10 %
    spread).
    """
    return time.perf_counter(), time.process_time()


def _tokenize_s(tokenizer: Any, prompt: Any) -> float:
    text = tokenizer.decode(prompt)
    start = time.perf_counter()
    tokenizer.encode(text)
    return time.perf_counter() - start


def _next_token(generator: Any, stream: Any) -> None:
    generator.generate_next_token()
    stream.decode(int(generator.get_next_tokens()[0]))


def memory() -> dict[str, int | None]:
    """Give this process's highest and present resident memory, in bytes, and its two parts.

    Off Linux only the highest; as in tasks/core/child_main.py, which would bring pydantic and
    psutil along, and with them 20 MB that are not the model's.
    """
    found: dict[str, int | None] = dict.fromkeys(_MEMORY.values())
    if sys.platform == "linux":
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name in _MEMORY:
                found[_MEMORY[name]] = int(value.split()[0]) * 1024
        return found
    from tasks.core import child_main

    return {**found, "hwm_b": child_main.peak_rss_bytes()}


def reset_peak() -> bool:
    """Let the highest resident memory start anew from the present one; tells whether it did."""
    try:
        _CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def involuntary_switches() -> int | None:
    """Count how often this process lost its processor; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _read_requests(requests: SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(ORPHANED)  # the input ended: whoever started us has closed it, or is gone


def run(folder: Path, session_options: str = "{}") -> None:
    """Do what `main` does, with an exit code of its own where memory runs out."""
    try:
        main(folder, session_options)
    except (MemoryError, RuntimeError) as problem:
        from tasks.examine.out_of_memory import is_out_of_memory

        if not is_out_of_memory(problem):
            raise
        print(problem, file=sys.stderr, flush=True)
        os._exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    run(Path(sys.argv[1]), *sys.argv[2:])
