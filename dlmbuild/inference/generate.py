"""Questions answered: by base and adapter in transformers, or by an exported GGUF in llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlmbuild.data.rows import conversation
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import UsageError
from dlmbuild.inference.llama_cpp import CONTEXT, LlamaCpp
from dlmbuild.inference.numbers import no_numbers
from dlmbuild.io.progress import Progress
from dlmbuild.train.gate import Choice, Gate


def load_model(base: Path, adapter: Path | None) -> Any:
    """The base, with the adapter if one is given, in fp32 and ready to be asked."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True, trust_remote_code=False
    )
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, local_files_only=True)
    return model.eval()


def require_numbers(*, trained: bool) -> Callable[[Any, Any], Any]:
    """What looks at the scores of each step of transformers' `generate`. It raises SmokeError for no numbers."""

    def check(_: Any, scores: Any) -> Any:
        import torch

        if not torch.isfinite(scores.max()):  # those that are out of the question are minus infinity
            raise no_numbers("the trained model" if trained else "the base", trained=trained)
        return scores

    return check


def answer_with_adapter(
    *,
    base: Path,
    adapter: Path | None = None,
    gate: Path | None = None,
    questions: Sequence[str],
    system_prompt: str | None,
    sampling: Mapping[str, Any],
    out: Path,
    progress: Progress,
    **named: Path,
) -> dict[str, Any]:
    """Answers of the trained model, or of the bare base, in order: {"answers": […]}.

    With the folder of a `gate` each question goes to the adapter that it chooses, NAME of those given as `of_NAME`;
    `choices` are then what it chose for each.
    """
    import torch

    progress("loading torch and the model")
    model = load_model(base, adapter)
    tokenizer = Tokenizer.from_base(base)
    asked = [
        tokenizer.encode_pieces(tokenizer.question(conversation(question, None, system_prompt)))
        for question in questions
    ]
    reads = model.config.get_text_config().max_position_embeddings
    _require_room(asked, reads)
    choices = _choices(gate, model, tokenizer, questions) if gate else []
    trained = adapter is not None or bool(choices)
    torch.manual_seed(sampling["seed"])
    greedy = sampling["temperature"] == 0
    settings = {"do_sample": False} if greedy else {
        "do_sample": True, "temperature": sampling["temperature"], "top_p": sampling["top_p"], "top_k": 0
    }  # fmt: skip

    def ask(question: list[int]) -> str:
        ids = torch.tensor([question])
        with torch.no_grad():
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=min(sampling["max_tokens"], reads - len(question)),
                pad_token_id=tokenizer.pad_id,
                eos_token_id=tokenizer.stop_ids,
                logits_processor=[require_numbers(trained=trained)],
                **settings,
            )
        return tokenizer.decode(made[0, ids.shape[1] :].tolist()).strip()

    answers = []
    for number, question in enumerate(asked):
        progress("answering", number, len(asked))
        if choices:
            chosen = choices[number].adapter
            model = _switched(model, chosen, named[f"of_{chosen}"])
        answers.append(ask(question))
    return {"answers": answers, **({"choices": [choice._asdict() for choice in choices]} if choices else {})}


def choose_adapters(
    *, base: Path, gate: Path, questions: Sequence[str], out: Path, progress: Progress
) -> dict[str, Any]:
    """What the gate in a folder chooses for each question, on the bare base: {"choices": [{"adapter", "why"}…]}."""
    progress("loading torch and the base")
    choices = _choices(gate, load_model(base, None), Tokenizer.from_base(base), questions)
    return {"choices": [choice._asdict() for choice in choices]}


def _choices(gate: Path, base: Any, tokenizer: Tokenizer, questions: Sequence[str]) -> list[Choice]:
    read = Gate.read(gate)
    return [read.choose(base, tokenizer, question) for question in questions]


def _switched(model: Any, name: str, adapter: Path) -> Any:
    """The model with this one of the adapters on it; `model` may be the base, or have others."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return PeftModel.from_pretrained(model, adapter, adapter_name=name, local_files_only=True).eval()
    if name not in model.peft_config:
        model.load_adapter(str(adapter), adapter_name=name, local_files_only=True)
    model.set_adapter(name)
    return model.eval()


def answer_with_export(
    *,
    model: Path,
    questions: Sequence[str],
    system_prompt: str | None,
    sampling: Mapping[str, Any],
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Answers of an exported GGUF as llama.cpp gives them, in order: {"answers": […]}."""
    progress("loading the model into llama.cpp")
    runtime = LlamaCpp(model)
    asked = [runtime.question(conversation(question, None, system_prompt)) for question in questions]
    _require_room(asked, runtime.reads)
    needed = min(max(map(len, asked)) + sampling["max_tokens"], runtime.reads)
    if needed > CONTEXT:
        del runtime  # two would not fit where one does
        runtime = LlamaCpp(model, context=needed)

    answers = []
    for number, ids in enumerate(asked):
        progress("answering", number, len(asked))
        answers.append(runtime.answer(ids, **sampling).strip())
    return {"answers": answers}


def _require_room(asked: Sequence[Sequence[int]], reads: int) -> None:
    """Refuse what leaves no room for an answer in what a base reads at once."""
    longest = max(map(len, asked))
    if longest >= reads:
        raise UsageError(
            f"the question has {longest} tokens, and the base reads {reads}",
            why="the chat template and the system prompt are counted in, and the answer has to fit as well",
            do="shorten it",
        )
