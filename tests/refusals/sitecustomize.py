"""A worker that is refused memory as on a board: first on the path of a real worker, this makes it
write what a board wrote, and end as it ended, while its KV cache has more than so many tokens.

$REFUSED_WORDS: a file with what it writes. $REFUSED_ABOVE: tokens of all slots.
$REFUSED_AT: `load`, for which llama.cpp only answers that it could not; or the number of the
computation in which it aborts the process.
"""

import os
from pathlib import Path

if "REFUSED_WORDS" in os.environ:
    from edge.engine import llama

    words = Path(os.environ["REFUSED_WORDS"]).read_bytes()
    above, at = int(os.environ["REFUSED_ABOVE"]), os.environ["REFUSED_AT"]

    if at == "load":
        load = llama.lib.llama_init_from_model

        def refused(model: object, params: llama.lib.llama_context_params) -> object:
            if params.n_ctx > above:
                os.write(2, words)
                return None
            return load(model, params)

        llama.lib.llama_init_from_model = refused
    else:
        decode, done = llama.LlamaBackend.decode, 0

        def dying(self: llama.LlamaBackend, chunks: object) -> None:
            global done
            done += 1
            if done == int(at) and self.slots * self.context > above:
                os.write(2, words)
                os.abort()
            decode(self, chunks)

        llama.LlamaBackend.decode = dying
