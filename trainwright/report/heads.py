"""What the Hub and transformers call a model by its head: the pipeline tag, the class, and a few lines to use it."""

from dataclasses import dataclass

FOLDER = "PATH_OF_THIS_FOLDER"
BASE = "PATH_OF_THE_BASE_MODEL"
LOADING = """import torch
from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
{use}"""
ADAPTED = """import torch
from peft import PeftModel
from transformers import AutoConfig, {auto_class}, AutoTokenizer

config = AutoConfig.from_pretrained("{folder}")
base = {auto_class}.from_pretrained("{base}", config=config, ignore_mismatched_sizes=True)
model = PeftModel.from_pretrained(base, "{folder}/adapter").merge_and_unload()
tokenizer = AutoTokenizer.from_pretrained("{folder}")
{use}"""


@dataclass(frozen=True)
class Head:
    """A kind of head: the Hub's pipeline tag (None where it is not known), transformers' class, lines of Python."""

    tag: str | None
    auto_class: str
    use: str = ""

    def usage(self, adapted: bool) -> str:
        """Python that loads the model and, where the head is known, predicts one text; `adapted` says that the folder
        holds an adapter without whole weights."""
        form = ADAPTED if adapted else LOADING
        code = form.format(auto_class=self.auto_class, folder=FOLDER, base=BASE, use=self.use).strip()
        return code if "torch." in code else code.removeprefix("import torch\n")


ANSWERS = """inputs = tokenizer("A question?", "A text that holds the answer.", return_tensors="pt")
with torch.no_grad():
    output = model(**inputs)
start, end = output.start_logits.argmax(), output.end_logits.argmax()
print(tokenizer.decode(inputs["input_ids"][0, start : end + 1]))"""
CLASSES = """inputs = tokenizer("A text.", return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits[0]
print({model.config.id2label[n]: float(logit) for n, logit in enumerate(logits)})"""
TOKENS = """inputs = tokenizer("A text.", return_tensors="pt")
with torch.no_grad():
    best = model(**inputs).logits[0].argmax(-1)
print([model.config.id2label[int(n)] for n in best])"""
BLANKS = """inputs = tokenizer(f"A {tokenizer.mask_token} text.", return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits[0]
blank = inputs["input_ids"][0] == tokenizer.mask_token_id
print(tokenizer.batch_decode(logits[blank].topk(5).indices[0].unsqueeze(1)))"""
TEXTS = """inputs = tokenizer("A text", return_tensors="pt", return_token_type_ids=False)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0], skip_special_tokens=True))"""
CHOICES = """choices = ["one choice", "another choice"]
inputs = tokenizer(["A question?"] * len(choices), choices, padding=True, return_tensors="pt")
with torch.no_grad():
    logits = model(**{name: values.unsqueeze(0) for name, values in inputs.items()}).logits[0]
print(choices[int(logits.argmax())])"""

HEADS = {  # by the end of an architecture's name
    "QuestionAnswering": Head("question-answering", "AutoModelForQuestionAnswering", ANSWERS),
    "SequenceClassification": Head("text-classification", "AutoModelForSequenceClassification", CLASSES),
    "TokenClassification": Head("token-classification", "AutoModelForTokenClassification", TOKENS),
    "MaskedLM": Head("fill-mask", "AutoModelForMaskedLM", BLANKS),
    "CausalLM": Head("text-generation", "AutoModelForCausalLM", TEXTS),
    "LMHeadModel": Head("text-generation", "AutoModelForCausalLM", TEXTS),
    "ConditionalGeneration": Head("text2text-generation", "AutoModelForSeq2SeqLM", TEXTS),
    "MultipleChoice": Head("multiple-choice", "AutoModelForMultipleChoice", CHOICES),
}


def head(architecture: str) -> Head:
    """The head of an architecture by its name; one that is not known loads as AutoModel and has no tag."""
    return next((known for end, known in HEADS.items() if architecture.endswith(end)), Head(None, "AutoModel"))
