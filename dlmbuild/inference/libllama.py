"""A GGUF in llama.cpp's library: how likely each token is at many places of a text at once, and many answers at once.

The server inside xllamacpp gives one next token at a time and shows the likeliest only (llama_cpp.py). Its
extension module exports the library that both stand on, too: what llama.h declares, in the version that
`official.VERSION` names. The native code ends a process on some bad files, so everything here runs in a job process of
its own; with that process goes what is loaded here.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.base_models.official import VERSION
from dlmbuild.data.control import Piece
from dlmbuild.errors import MissingExtra, SmokeError
from dlmbuild.inference.numbers import no_numbers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_int, _float, _bool, _text, _pointer = ctypes.c_int32, ctypes.c_float, ctypes.c_bool, ctypes.c_char_p, ctypes.c_void_p


class _Params(ctypes.Structure):
    """llama_model_params or llama_context_params, as the 32-bit words they begin with and more room than they take.

    Larger than the real ones is safe: a structure of this size is handed over in memory, and whoever is called knows
    and touches only its beginning. On x86-64 (System V) that memory is the caller's stack, where nothing follows the
    structure, since it is the last argument; on ARM64 (AAPCS64) and in Windows' convention it is a copy whose address
    is passed. What is returned is written to an address that the caller gives, in all three.
    """

    _fields_ = (("words", ctypes.c_uint32 * 256),)


class _Batch(ctypes.Structure):
    """llama_batch. Without `pos` the tokens follow those that the memory holds, and without `seq_id` of sequence 0."""

    _fields_ = (
        *(("n_tokens", _int), ("token", ctypes.POINTER(_int)), ("embd", _pointer), ("pos", _pointer)),
        *(("n_seq_id", ctypes.POINTER(_int)), ("seq_id", ctypes.POINTER(_pointer))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, _text, _pointer)
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "llama_log_set": (None, _LOG, _pointer),
    "llama_backend_init": (None,),
    "llama_model_default_params": (_Params,),
    "llama_context_default_params": (_Params,),
    "llama_model_load_from_file": (_pointer, _text, _Params),
    "llama_init_from_model": (_pointer, _pointer, _Params),
    "llama_adapter_lora_init": (_pointer, _pointer, _text),
    "llama_set_adapters_lora": (_int, _pointer, _pointer * 1, ctypes.c_size_t, _float * 1),
    "llama_model_get_vocab": (_pointer, _pointer),
    "llama_vocab_n_tokens": (_int, _pointer),
    "llama_tokenize": (_int, _pointer, _text, _int, ctypes.POINTER(_int), _int, _bool, _bool),
    "llama_get_memory": (_pointer, _pointer),
    "llama_memory_clear": (None, _pointer, _bool),
    "llama_memory_seq_cp": (None, _pointer, _int, _int, _int, _int),
    "llama_vocab_is_eog": (_bool, _pointer, _int),
    "llama_detokenize": (_int, _pointer, ctypes.POINTER(_int), _int, ctypes.c_char_p, _int, _bool, _bool),
    "llama_decode": (_int, _pointer, _Batch),
    "llama_get_logits_ith": (ctypes.POINTER(_float), _pointer, _int),
}
"""Of each function the type of what it returns, and those of its arguments."""

_GPU_LAYERS = 4
_MODEL = {_GPU_LAYERS: 2**32 - 1}
"""Words of llama_model_params by their number: n_gpu_layers is -1, which means all."""
_N_CTX, _N_BATCH, _, _N_SEQ_MAX, _, _, _N_OUTPUTS_MAX_PER_SEQ, _N_THREADS, _N_THREADS_BATCH = range(9)
_CONTEXT = dict(enumerate((512, 2048, 512, 1, 0, 0, 1, 4, 4)))
"""Those of llama_context_params; between those that are set are n_ubatch, n_rs_seq and n_outputs_max."""

_DEBUG, _ERROR = 1, 4
_errors: list[str] = []
"""What the library has said of what went wrong; what it says first is nearest to the cause."""


def _hear(level: int, said: bytes, _: object) -> None:
    line = said.decode("utf-8", "replace")
    if level != _DEBUG:
        sys.stderr.write(line)
    if level == _ERROR:
        _errors.append(line.strip())


_hearing = _LOG(_hear)  # the library keeps its address


class LibLlama:
    """One loaded GGUF, with an optional LoRA GGUF on top, for up to `at_once` texts of up to `longest` tokens.

    Raises SmokeError for a file that llama.cpp does not load, MissingExtra where it is not the llama.cpp that is known.
    """

    def __init__(self, model: Path, *, lora: Path | None = None, longest: int, at_once: int = 1) -> None:
        self._name = model.name
        self._llama = llama = _library()
        of_model = _known(llama.llama_model_default_params(), _MODEL)
        of_model.words[_GPU_LAYERS] = 0
        params = _known(llama.llama_context_default_params(), _CONTEXT)
        params.words[_N_CTX] = params.words[_N_BATCH] = longest * at_once
        params.words[_N_SEQ_MAX] = self._at_once = at_once
        params.words[_N_OUTPUTS_MAX_PER_SEQ] = 0  # as many as are asked for
        params.words[_N_THREADS] = params.words[_N_THREADS_BATCH] = int(os.environ.get("OMP_NUM_THREADS", "1"))
        loaded = _made(llama.llama_model_load_from_file(os.fsencode(model), of_model), model)
        self._context = _made(llama.llama_init_from_model(loaded, params), model)
        if lora is not None:
            adapter = _made(llama.llama_adapter_lora_init(loaded, os.fsencode(lora)), lora)
            _made(not llama.llama_set_adapters_lora(self._context, (_pointer * 1)(adapter), 1, (_float * 1)(1.0)), lora)
        self._vocabulary = llama.llama_model_get_vocab(loaded)
        self._tokens = llama.llama_vocab_n_tokens(self._vocabulary)

    def tokenize(self, pieces: Iterable[Piece]) -> list[int]:
        """Ids of a rendered conversation, none added."""
        ids: list[int] = []
        for piece in pieces:
            text = piece.text.encode()
            asked = (self._vocabulary, text, len(text))
            count = -self._llama.llama_tokenize(*asked, None, 0, False, piece.control)  # where there is no room for any
            found = (_int * count)()
            self._llama.llama_tokenize(*asked, found, count, False, piece.control)
            ids += found
        return ids

    def next_tokens(self, ids: Sequence[int], first: int) -> Iterator[NDArray[np.float64]]:
        """The natural log of each token's probability to come after ids[:first], after one more, … and after all.

        They are to be taken before the next text is asked about. Raises SmokeError where they are no numbers.
        """
        import numpy as np

        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        for logits in self._decode([(0, token) for token in ids], range(first - 1, len(ids))):
            logits -= logits.max()
            yield logits - np.log(np.exp(logits).sum())

    def _decode(self, given: Sequence[tuple[int, int]], asked: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        """Give the model tokens, each of the sequence before it: the logits after those of them that are `asked`."""
        count = len(given)
        sequences = (_int * count)(*(sequence for sequence, _ in given))
        size, first = ctypes.sizeof(_int), ctypes.addressof(sequences)
        batch = _Batch(
            n_tokens=count,
            token=(_int * count)(*(token for _, token in given)),
            n_seq_id=(_int * count)(*[1] * count),
            seq_id=(_pointer * count)(*range(first, first + count * size, size)),
            logits=(ctypes.c_int8 * count)(*map(set(asked).__contains__, range(count))),
        )
        if code := self._llama.llama_decode(self._context, batch):
            raise _failed(f"llama.cpp does not compute with {self._name}: llama_decode returns {code}")
        return map(self._logits, asked)

    def _logits(self, at: int) -> NDArray[np.float64]:
        import numpy as np

        found = np.ctypeslib.as_array(self._llama.llama_get_logits_ith(self._context, at), (self._tokens,))
        logits = found.astype(np.float64)
        if not np.isfinite(logits).all():
            raise no_numbers(self._name)
        return logits

    def answers(self, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> Iterator[tuple[str, bool]]:
        """The likeliest answer to each prompt, of at most so many tokens, and whether it ended by itself.

        Several are computed at once, always the same ones; what prompts begin with alike is computed once for them.
        Control tokens have no text, those that end an answer among them.
        """
        for start in range(0, len(prompts), self._at_once):
            some = slice(start, start + self._at_once)
            for said in self._continued(prompts[some], limits[some]):
                yield self._text(said), self._ends(said[-1])

    def _continued(self, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
        """What follows each prompt, with the token that ends it."""
        llama, memory = self._llama, self._llama.llama_get_memory(self._context)
        llama.llama_memory_clear(memory, True)
        shortest = min(map(len, prompts)) - 1  # of each, the last token is its own: what comes after it is asked for
        alike = next((at for at in range(shortest) if len({prompt[at] for prompt in prompts}) > 1), shortest)
        if alike:
            self._decode([(0, token) for token in prompts[0][:alike]], ())
            for sequence in range(1, len(prompts)):
                llama.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
        given: list[tuple[int, int]] = []
        ends: list[int] = []
        for sequence, prompt in enumerate(prompts):
            given += [(sequence, token) for token in prompt[alike:]]
            ends.append(len(given) - 1)
        said: list[list[int]] = [[] for _ in prompts]
        going = list(range(len(prompts)))
        while going:
            for sequence, logits in zip(going, self._decode(given, ends), strict=True):
                said[sequence].append(int(logits.argmax()))
            going = [s for s in going if not self._ends(said[s][-1]) and len(said[s]) < limits[s]]
            given, ends = [(sequence, said[sequence][-1]) for sequence in going], list(range(len(going)))
        return said

    def _ends(self, token: int) -> bool:
        return bool(self._llama.llama_vocab_is_eog(self._vocabulary, token))

    def _text(self, ids: Sequence[int]) -> str:
        asked = (self._vocabulary, (_int * len(ids))(*ids), len(ids))
        size = -self._llama.llama_detokenize(*asked, None, 0, False, False)
        found = ctypes.create_string_buffer(size)
        self._llama.llama_detokenize(*asked, found, size, False, False)
        return found.raw.decode("utf-8", "replace")


def _made(handle: int | None, file: Path) -> int:
    if not handle:
        raise _failed(f"llama.cpp does not load {file.name}")
    return handle


def _failed(what: str) -> SmokeError:
    do = "look into the log beside the store's other files, or export another quantisation"
    return SmokeError(what, why=" ".join(_errors[:1]), do=do)


def _known(params: _Params, expected: dict[int, int]) -> _Params:
    """Default parameters, which are written to only where they are those that are known."""
    found = {number: params.words[number] for number in expected}
    if found != expected:
        raise _unknown(f"its default parameters are {[*found.values()]} and not {[*expected.values()]}")
    return params


def _library() -> Any:
    import xllamacpp.xllamacpp

    if xllamacpp.__version__ != VERSION:
        raise _unknown(f"it is {xllamacpp.__version__}")
    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    for name, (returned, *taken) in _FUNCTIONS.items():
        if not hasattr(library, name):
            raise _unknown(f"its extension module exports no {name}, as those for Linux and macOS do")
        function = getattr(library, name)
        function.restype, function.argtypes = returned, taken
    library.llama_log_set(_hearing, None)
    library.llama_backend_init()
    return library


def _unknown(why: str) -> MissingExtra:
    return MissingExtra(
        f"exports are compared by the llama.cpp in xllamacpp {VERSION}, and what is installed is another",
        why=why,
        do=f"pip install --force-reinstall xllamacpp=={VERSION}   (on Linux or macOS)",
    )
