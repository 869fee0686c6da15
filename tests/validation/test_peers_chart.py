"""The tables and the figure of our influence beside its peers are those of the file of scores."""

import importlib.util
import re
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from lxml import etree

from provenance.core.settings import CHECKOUT
from provenance.models.model import read_model

spec = importlib.util.spec_from_file_location("peers_chart", CHECKOUT / "bench/peers/chart.py")
chart = importlib.util.module_from_spec(spec)
spec.loader.exec_module(chart)
SCORES = chart.read_scores()


def test_document_and_figure_are_made_of_the_scores():
    text = chart.EVIDENCE.read_text()
    assert chart.document(text, chart.tables(SCORES)) == text, "make peers-chart"
    assert chart.figure(SCORES) == chart.FIGURE.read_bytes(), "make peers-chart"


def test_another_score_changes_table_and_figure():
    changed = deepcopy(SCORES)
    changed["workload"][0]["method"][0]["owners"] = 0.11
    assert "| ours, fitted | .47 / .11 |" in chart.tables(changed)["composers"]
    assert chart.figure(changed) != chart.figure(SCORES)


def test_the_figure_names_every_charted_method_and_the_ceilings():
    texts = " ".join(etree.fromstring(chart.figure(SCORES)).itertext())
    for workload in SCORES["workload"]:
        assert f"ceiling, owners {chart._short(workload['ceiling']['owners'])}" in texts
        for method in workload["method"]:
            assert (chart._label(method["name"]) in texts) or not method.get("charted", True)


def test_a_score_has_no_zero_before_its_point():
    assert [chart._short(score) for score in (0.47, -0.08, 0.0, 1.0)] == [".47", "-.08", ".00", "1.00"]


def test_a_document_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="peers: composers"):
        chart.document(re.sub("<!-- peers: composers -->", "", chart.EVIDENCE.read_text()), chart.tables(SCORES))


def test_what_peers_read_model_folders_with_needs_nothing_that_their_environment_lacks():
    code = "import sys; sys.modules |= dict.fromkeys(['polars', 'fsspec', 's3fs', 'dask', 'cupy'])\n"
    code += "import provenance.features.report, provenance.features.sampled, provenance.models.model\n"
    code += "import provenance.models.adapters.tokens"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_peers_are_given_the_losses_of_the_adapter(tiny_model, monkeypatch):
    monkeypatch.syspath_prepend(str(CHECKOUT / "bench/peers"))
    peer = importlib.import_module("peer")
    model, contents = read_model(tiny_model), [b"one", b"another"]
    adapter, module = model.adapter(), model.load(model.card.checkpoints[-1])
    losses = adapter.loss(module, adapter.collate(contents))
    (batch,) = peer.loader(adapter, contents)
    assert torch.equal(peer.Losses(adapter, module)(*batch), losses)
    (named,) = peer.loader(adapter, contents, lambda parts: dict(zip("ab", parts, strict=True)))
    assert torch.equal(peer.TotalLoss(adapter, module)(**named).loss, losses.sum())
