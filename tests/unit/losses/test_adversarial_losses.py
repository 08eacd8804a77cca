"""What attacks climb, against figures worked by hand."""

import numpy as np
import pytest
import torch

from edgekd.losses import cross_entropy_each, dlr, dlr_targeted, margin, margin_targeted

LOGITS = torch.tensor([[5.0, 1.0, 3.0, 2.0], [0.0, 4.0, 1.0, -2.0]])
LABELS, TARGETS = torch.tensor([0, 2]), torch.tensor([2, 0])


def test_figures_by_hand():
    assert margin(LOGITS, LABELS).tolist() == [-2.0, 3.0]
    # (5 - 3) / (5 - 2) and (1 - 4) / (4 - 0)
    assert dlr(LOGITS, LABELS).tolist() == pytest.approx([-2 / 3, 3 / 4])
    assert margin_targeted(LOGITS, LABELS, TARGETS).tolist() == [-2.0, -1.0]
    # spreads: 5 - (2 + 1) / 2 and 4 - (0 - 2) / 2
    assert dlr_targeted(LOGITS, LABELS, TARGETS).tolist() == pytest.approx([-2 / 3.5, -1 / 5])
    logits = LOGITS.double().numpy()
    expected = np.log(np.exp(logits).sum(1)) - logits[[0, 1], [0, 2]]
    assert cross_entropy_each(LOGITS, LABELS).tolist() == pytest.approx(expected.tolist(), rel=1e-6)


@pytest.mark.parametrize("scale", [100.0, 0.01])
def test_the_ratio_knows_neither_scale_nor_shift(scale):
    moved = scale * LOGITS + 7
    assert torch.allclose(dlr(moved, LABELS), dlr(LOGITS, LABELS), rtol=1e-4)
    assert torch.allclose(dlr_targeted(moved, LABELS, TARGETS), dlr_targeted(LOGITS, LABELS, TARGETS), rtol=1e-4)
    assert not torch.allclose(margin(moved, LABELS), margin(LOGITS, LABELS))


def test_equal_logits_give_no_nan():
    flat = torch.zeros(2, 4)
    assert dlr(flat, LABELS).tolist() == dlr_targeted(flat, LABELS, TARGETS).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("loss", "classes"), [(margin, 1), (dlr, 2), (lambda z, y: dlr_targeted(z, y, y), 3)])
def test_too_few_classes_are_refused(loss, classes):
    with pytest.raises(ValueError, match="at least"):
        loss(torch.zeros(2, classes), torch.zeros(2, dtype=torch.int64))
