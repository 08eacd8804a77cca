"""What a session answers to the probe images: ACC, ASR and label flips, held against the host's figures of the same file."""

from __future__ import annotations

import dataclasses

import numpy as np

from . import bundle, metrics
from .records import BundleManifest, Gate, StageRow, TriggerScore
from .runtime.base import Progress
from .session import REFERENCE, Session, as_float

BATCH = 100
# Further from the host's figures than this, and than one image, is not the same model (card 11.3).
ACC_TOLERANCE = 0.005
ASR_TOLERANCE = 0.01
AGREEMENT = 0.99  # of the clean images, or all but one, must get the host's answer: equal counts may be of other images
NOT_FINITE = "logits are not finite"


def judge(session: Session, first: Session, manifest: BundleManifest, probes: bundle.Probes, report: Progress) -> None:
    """ACC, ASR per trigger and label flips, held against what the host found for the same file."""
    clean = session.predictions = _predict(session, probes.images, "ACC", report)
    scores = []
    for t in probes.triggered:
        triggered = _predict(session, t.images, "ASR " + t.name, report)
        labels = probes.labels[t.positions]
        scores.append(
            TriggerScore(
                t.name,
                t.origin,
                asr=metrics.attack_success(triggered, labels, t.attacker_labels),
                ra=metrics.robust_accuracy(triggered, labels, t.attacker_labels),
                untriggered=metrics.attack_success(clean[t.positions], labels, t.attacker_labels),
                floor=metrics.Rate.from_json(manifest.floors.get(t.name)),
            )
        )
    flips = None
    if first is not session and first.row.stage == REFERENCE and first.predictions is not None:
        flips = metrics.Rate(int((clean != first.predictions).sum()), len(clean))
    found = metrics.accuracy(clean, probes.labels)
    acc = found if manifest.labelled else None
    if acc is None:
        session.notes.append(f"gives the teacher's answer on {found.hits} of {found.total} images; ACC is not measured")
    hosts = probes.answers.get(session.row.stage)
    agreement = None if hosts is None else metrics.accuracy(clean, hosts)
    session.gates.append(agreement_gate(session.row.stage, agreement))
    session.row = dataclasses.replace(session.row, acc=acc, triggers=tuple(scores), flips=flips, agreement=agreement)
    if session.row.stage in manifest.references:
        host = StageRow.from_json(manifest.references[session.row.stage])
        _compare(session, host, found, "ACC" if manifest.labelled else "agreement")


def agreement_gate(name: str, found: metrics.Rate | None) -> Gate:
    """Whether the file ``name`` answers here as it did on the host (card device_harness 3.5, 11.3)."""
    what, limit = f"answers of {name}", f"the host's on {AGREEMENT:.0%} of the clean images or more, or on all but one"
    if found is None:
        return Gate(what, limit, "not measured", "the bundle does not hold the host's")
    unlike = found.total - found.hits > 1 and found.hits < AGREEMENT * found.total
    words = f"as on the host on {found.hits} of {found.total} images ({found.value:.2%})"
    if unlike:
        words = f"answers otherwise than the host on {found.total - found.hits} of {found.total} images"
    return Gate(what, limit, "failed" if unlike else "passed", words)


def _predict(session: Session, images: np.ndarray, what: str, report: Progress) -> np.ndarray:
    """Labels int64 [N]; a logit that is not finite makes the session's figures invalid."""
    found = np.empty(len(images), np.int64)
    for start in range(0, len(images), BATCH):
        logits = session.runner.infer(as_float(images[start : start + BATCH]))
        if not np.isfinite(logits).all() and NOT_FINITE not in session.wrong:
            session.wrong.append(NOT_FINITE)
        found[start : start + BATCH] = logits.argmax(1)
        report(f"{session.row.stage} {what}", min(start + BATCH, len(images)), len(images), {})
    return found


def _compare(session: Session, host: StageRow, found: metrics.Rate, called: str) -> None:
    """Note how far ACC (agreement without labels) and ASR are from the host's on the same file; too far is not the same model."""
    theirs = {score.trigger: score.asr for score in host.triggers}
    pairs = [(called, found, host.acc, ACC_TOLERANCE)]
    pairs += [("ASR " + s.trigger, s.asr, theirs.get(s.trigger), ASR_TOLERANCE) for s in session.row.triggers]
    different: list[str] = []
    unlike: list[str] = []
    equal = 0
    for what, here, there, tolerance in pairs:
        if here is None or there is None:
            continue
        if here.total != there.total:
            unlike.append(f"{what} ({here.total} images here, {there.total} there)")
            continue
        if here.hits == there.hits:
            equal += 1
            continue
        words = f"{what} is {here.value:.2%}, the host found {there.value:.2%}"
        different.append(words)
        # An ASR that falls is no alarm; one that rises is the mark of a backdoor that waits for quantisation.
        apart = here.hits - there.hits
        if (apart if what.startswith("ASR") else abs(apart)) > max(1.0, tolerance * here.total):
            session.wrong.append(words)
    if equal and not different:
        every = "ACC and ASR" if called == "ACC" else "all figures"
        session.notes.append(("the other figures" if unlike else every) + " equal the host's")
    session.notes += different
    if unlike:
        more = f" and {len(unlike) - 3} more" if len(unlike) > 3 else ""
        session.notes.append(
            "not compared with the host's, which counted other images: " + ", ".join(unlike[:3]) + more
        )
