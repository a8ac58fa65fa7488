"""Every golden folder, whoever wrote it: opened as it is, converted, and brought back, bit by bit.

What the models then compute is held against the expected numbers in `test_originals*.py`.
"""

import numpy as np
import pytest
from helpers import KERAS, TORCH

from conversion.convert import convert, plan
from conversion.formats import open_reader
from conversion.parity.subjects import subject_of
from conversion.source import open_source
from tests.conversion.converted import converted, loaded
from tests.conversion.models import HF_FILES, ORIGINAL
from xlcore.config import read_json_object
from xlcore.families import FAMILIES

FOLDERS = [*sorted(ORIGINAL.glob("*_*-*")), *sorted(HF_FILES.glob("hf_*-*"))]
HEADS = {
    "transfo_xl_tf1": "TransfoXLLMHeadModel",
    "transfo_xl_torch": "TransfoXLLMHeadModel",
    "xlnet_tf1-pretrain": "XLNetLMHeadModel",
    "xlnet_tf1-classifier": "XLNetForSequenceClassification",
    "xlnet_tf1-squad": "XLNetForQuestionAnswering",
    "xlm_pth": "XLMWithLMHeadModel",
    "xlmr_xl_fairseq-mlm": "XLMRobertaXLForMaskedLM",
    "xlmr_xl_fairseq-mnli": "XLMRobertaXLForSequenceClassification",
}


def test_there_are_folders_of_every_family():
    found = {open_source(folder).config.model_type for folder in FOLDERS}
    assert found == FAMILIES.keys()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_head_is_the_one_that_the_folder_tells(folder):
    (found,) = read_json_object(converted(folder) / "config.json")["architectures"]
    if folder.parent == HF_FILES:
        (told,) = read_json_object(folder / "config.json")["architectures"]
        assert found == told.removeprefix("TF")
    else:
        assert found == next(head for start, head in HEADS.items() if folder.name.startswith(start))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("side", [TORCH, KERAS], ids=str)
def test_opened_as_it_is_a_folder_is_the_same_model(side, folder):
    found, wanted = side.weights(side_by_itself(side, folder)), side.weights(loaded(side, folder))
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert np.array_equal(found[name], array), name


def side_by_itself(side, folder):
    """Load a folder by its own door, without a conversion."""
    name = open_source(folder).head.name
    return getattr(side.towers, name if side is TORCH else f"TF{name}").from_pretrained(folder)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_back_in_its_own_format_every_tensor_has_its_name_and_its_bits(folder, tmp_path):
    source = open_source(folder)
    convert(
        plan(
            converted(folder), tmp_path / "back", to=source.format if source.origin.name == "hf" else source.origin.name
        )
    )
    origin, back = source.origin, open_reader(tmp_path / "back")
    theirs = {plain: name for name, plain in origin.plain(source.reader).items()}
    returned = {plain: name for name, plain in origin.plain(back).items()}
    wanted = {account.name for account in source.accounts if account.fate in ("used", "split", "tied")}
    compared = 0
    for plain, name in theirs.items():
        if name in wanted:
            assert back.read(returned[plain]).tobytes() == source.reader.read(name).tobytes(), name
            compared += 1
    assert compared == len(wanted) > 10


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_parity_takes_a_folder_of_any_format(folder):
    source, subject = open_source(folder), subject_of(folder)
    for name in source.entries:
        assert np.array_equal(subject.weights[name], source.read(name).astype("float64")), name
