"""One loaded variant in one process that times runs on request, one JSON line each.

Runs as `python -m tasks.examine.timing_worker FOLDER`. Imports next to nothing, because its own
memory is measured; which runs are asked for, and what they mean, is `speed_child.py`'s matter.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ORPHANED = 97
OUT_OF_MEMORY = 98


def main(folder: Path) -> None:
    """Load the folder, say so, and answer requests until the input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what native code prints must not get between the lines
    requests: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()

    started = time.perf_counter()
    import numpy as np
    import onnxruntime_genai as og

    og.disable_telemetry_events()
    imported, base_rss_bytes = time.perf_counter(), peak_rss_bytes()
    model = og.Model(str(folder))
    tokenizer = og.Tokenizer(model)
    ready = {
        "import_s": imported - started,
        "load_s": time.perf_counter() - imported,
        "base_rss_bytes": base_rss_bytes,
        "load_peak_rss_bytes": peak_rss_bytes(),
    }
    print(json.dumps(ready), file=replies)
    while True:
        request = requests.get()
        prompt = np.asarray(request["prompt"], np.int32)
        timing = _run(og, model, tokenizer, prompt, request["new_tokens"])
        print(json.dumps({**timing, "peak_rss_bytes": peak_rss_bytes()}), file=replies)


def _run(og: Any, model: Any, tokenizer: Any, prompt: Any, new_tokens: int) -> dict[str, float]:
    """Generate a fixed number of tokens; the clock starts before the generator is made."""
    length = len(prompt) + new_tokens
    cpu_start, start = time.process_time(), time.perf_counter()
    parameters = og.GeneratorParams(model)
    # min_length masks the end-of-sequence token, so that every run has the same work.
    parameters.set_search_options(
        do_sample=False, batch_size=1, max_length=length, min_length=length
    )
    generator = og.Generator(model, parameters)
    stream = tokenizer.create_stream()
    created = time.perf_counter()
    generator.append_tokens(prompt)
    prefilled = time.perf_counter()
    # The prefill made the first token's logits: n tokens are n - 1 decoding steps. Both clocks are
    # read at the same places, so that seconds and CPU seconds are of the same work.
    _next_token(generator, stream)
    first, cpu_first = time.perf_counter(), time.process_time()
    for _ in range(new_tokens - 1):
        _next_token(generator, stream)
    end, cpu_end = time.perf_counter(), time.process_time()
    return {
        "create_s": created - start,
        "prefill_s": prefilled - created,
        "ttft_s": first - start,
        "decode_s": end - first,
        "e2e_s": end - start,
        # Of all native threads too, so it is robust on a shared machine (3 % against 10 % spread).
        "cpu_ttft_s": cpu_first - cpu_start,
        "cpu_decode_s": cpu_end - cpu_first,
    }


def _next_token(generator: Any, stream: Any) -> None:
    generator.generate_next_token()
    stream.decode(int(generator.get_next_tokens()[0]))


def peak_rss_bytes() -> int:
    """Give this process's highest resident set size, in bytes.

    The same as in tasks/core/child_main.py, which would bring pydantic and psutil along, and with
    them 20 MB that are not the model's.
    """
    status = Path("/proc/self/status")
    if sys.platform == "linux":
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    from tasks.core import child_main

    return child_main.peak_rss_bytes()


def _read_requests(requests: SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(ORPHANED)  # the input ended: whoever started us has closed it, or is gone


def run(folder: Path) -> None:
    """Do what `main` does, with an exit code of its own where memory runs out."""
    try:
        main(folder)
    except (MemoryError, RuntimeError) as problem:
        from tasks.examine.out_of_memory import is_out_of_memory

        if not is_out_of_memory(problem):
            raise
        print(problem, file=sys.stderr, flush=True)
        os._exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
