from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.clicks import Box, Click, TwoPartNetwork, joined
from tests.model import two_part_files
from tests.model.two_part_files import SIDE

WIDE = np.zeros((16, 64), np.float32)  # twice as wide as the encoder's side: scaled by a half


@pytest.fixture
def network(tmp_path: Path) -> TwoPartNetwork:
    return TwoPartNetwork(two_part_files.write(tmp_path))


def test_the_answer_lies_where_the_click_is_at_the_images_own_size(network: TwoPartNetwork) -> None:
    click = Click(8, 40)
    found = network.probabilities(WIDE.shape, network.embed(WIDE), None, [click])
    assert found.shape == WIDE.shape
    assert found.dtype == np.float32
    rows, columns = np.nonzero(found > 0.5)
    assert abs(rows.mean() - click.row) < 1
    assert abs(columns.mean() - click.column) < 1


def test_the_decoder_sees_the_draft(network: TwoPartNetwork) -> None:
    draft = np.zeros(WIDE.shape, np.float32)
    draft[:, :20] = 1
    found = network.probabilities(WIDE.shape, network.embed(WIDE), draft, [Click(8, 40)])
    assert found[8, 4] > 0.9
    assert found[8, 60] < 0.1


def test_an_image_is_scaled_padded_and_normalised_for_the_encoder(network: TwoPartNetwork) -> None:
    embedding = network.embed(np.ones((16, 64, 3), np.float32))
    assert embedding.shape == (1, 3, 8, 8)
    assert (embedding[0, :, :2] > 1).all()  # white, 8 of 32 rows
    assert not embedding[0, :, 2:].any()


def test_an_encoder_that_prepares_images_itself_gets_their_pixels(tmp_path: Path) -> None:
    two_part_files.raw_encoder(tmp_path / "ENCODER.onnx")
    two_part_files.decoder(tmp_path / "Decoder.onnx")
    embedding = TwoPartNetwork(tmp_path).embed(np.full((5, 8), 0.2, np.float32))
    assert embedding == pytest.approx(51)


def test_the_last_box_takes_the_place_of_the_padding_point(network: TwoPartNetwork) -> None:
    boxes = [Box(0, 0, 4, 4), Box(4, 20, 12, 40)]
    found = network.probabilities(WIDE.shape, network.embed(WIDE), None, boxes)
    _, columns = np.nonzero(found > 0.5)
    assert columns.mean() == pytest.approx(20, abs=2)  # the corner is the tiny decoder's point


@pytest.mark.parametrize("shape", [[1, 1, SIDE, SIDE], [1, 3, SIDE, SIDE, 2], [3]])
def test_another_encoder_is_refused_with_what_it_takes(tmp_path: Path, shape: list[int]) -> None:
    two_part_files.write(tmp_path)
    (tmp_path / "tiny_encoder.onnx").unlink()
    two_part_files.encoder(tmp_path / "encoder.onnx", shape)
    with pytest.raises(ValueError, match=r"takes x .*expected one image|cannot be opened"):
        TwoPartNetwork(tmp_path)


def test_another_decoder_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    two_part_files.write(tmp_path)
    two_part_files.decoder(tmp_path / "tiny_decoder.onnx", masks="other")
    with pytest.raises(ValueError, match=r"returns iou_predictions, other; .*low_res_masks"):
        TwoPartNetwork(tmp_path)


def test_two_files_of_different_networks_are_refused(tmp_path: Path) -> None:
    two_part_files.write(tmp_path)
    two_part_files.encoder(tmp_path / "tiny_encoder.onnx", [1, 3, 2 * SIDE, 2 * SIDE])
    with pytest.raises(ValueError, match="both files of the same network"):
        TwoPartNetwork(tmp_path)


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    two_part_files.write(tmp_path)
    (tmp_path / "tiny_encoder.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"tiny_encoder\.onnx cannot be opened"):
        TwoPartNetwork(tmp_path)


def test_a_folder_holds_one_encoder_and_one_decoder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds 0 files \*encoder\*\.onnx, expected one"):
        TwoPartNetwork(tmp_path)
    two_part_files.write(tmp_path)
    two_part_files.decoder(tmp_path / "second_decoder.onnx")
    with pytest.raises(ValueError, match=r"holds 2 files \*decoder\*\.onnx"):
        TwoPartNetwork(tmp_path)


def test_far_from_every_prompt_the_draft_stays() -> None:
    draft, answer = np.zeros((40, 40), np.float32), np.ones((40, 40), np.float32)
    earlier = Box(0, 30, 5, 40)  # the decoder heard of the last box alone
    whole = joined(draft, answer, [earlier, Click(0, 0), Box(30, 30, 35, 40)])
    assert whole[:11, :11].all()
    assert whole[30:35, 30:40].all()
    assert whole.sum() == 11 * 11 + 5 * 10
    assert not draft.any()


def test_without_a_draft_the_answer_is_the_networks() -> None:
    answer = np.ones((4, 4), np.float32)
    assert joined(None, answer, [Click(0, 0)]) is answer
