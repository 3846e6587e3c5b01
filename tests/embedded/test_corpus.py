import json
from pathlib import Path
from random import Random
from textwrap import indent

from dsd_core.embedded.corpus import Difficulty, Document, gsm8k, library_functions, made_up
from dsd_core.embedded.curriculum import Library, target_mix


def _gsm8k_file(folder: Path) -> Path:
    path = folder / "train.jsonl"
    path.write_text(json.dumps({"question": "How many? ", "answer": "1+1 = <<1+1=2>>2\n#### 2"}) + "\n")
    return path


def test_gsm8k_loses_the_calculators_annotations(tmp_path: Path) -> None:
    (document,) = gsm8k(_gsm8k_file(tmp_path))
    assert document.prompt + document.body == "Question: How many?\nAnswer: 1+1 = 2\n#### 2"


def test_the_curriculum_grows_harder() -> None:
    assert target_mix(0.0).difficulty.most < target_mix(0.5).difficulty.most == target_mix(1.0).difficulty.most


def test_every_kind_of_document_is_drawn(tmp_path: Path) -> None:
    library = Library(gsm8k(_gsm8k_file(tmp_path)), [made_up(Random(0), Difficulty(drills=1.0))])
    documents = library.documents(Random(0), lambda: target_mix(1.0))
    drawn = [next(documents) for _ in range(200)]
    assert all(0 < drawn.count(document) < 100 for document in library.gsm8k + library.functions)


def test_library_functions_split_after_the_docstring(tmp_path: Path) -> None:
    head, body = 'def double(x):\n    """Twice x."""', "\n    return 2 * x"
    source = f"class Number:\n{indent(head + body, '    ')}\n\ndef undocumented(x):\n    return x\n"
    (tmp_path / "number.py").write_text(source)
    assert library_functions(tmp_path) == [Document(head, body)]


def test_source_that_does_not_parse_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f(:")
    assert library_functions(tmp_path) == []
